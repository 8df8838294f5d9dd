//! Which program the sidecar is.

use api::config::v1alpha2::SidecarSpec;
use api::labels::SIDECAR_CLASS;
use k8s_openapi::api::core::v1::{Namespace, Pod};

use crate::error::InjectError;
use crate::settings::Settings;

/// Which program the sidecar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SidecarClass {
    /// Our own proxy. osm-edge's `pipy` is read as it, so that its MeshConfigs load.
    OsmProxy,
    /// A stock Envoy, with `osm-proxy agent` beside it for everything that Envoy does not do.
    Envoy,
}

// === impl SidecarClass ===

impl SidecarClass {
    /// The class of a pod: its own annotation, else its namespace's, else MeshConfig's.
    pub(crate) fn of(
        pod: &Pod,
        namespace: &Namespace,
        config: &SidecarSpec,
    ) -> Result<Self, InjectError> {
        let annotated = [&pod.metadata.annotations, &namespace.metadata.annotations];
        let annotated = annotated
            .into_iter()
            .find_map(|annotations| annotations.as_ref()?.get(SIDECAR_CLASS));
        let (place, value) = match annotated {
            Some(value) => ("annotation 'openservicemesh.io/sidecar-class'", value),
            None => ("MeshConfig sidecar.sidecarClass", &config.sidecar_class),
        };
        match value.as_str() {
            "osm-proxy" | "pipy" => Ok(Self::OsmProxy),
            "envoy" => Ok(Self::Envoy),
            "" if annotated.is_none() => Ok(Self::OsmProxy),
            _ => Err(InjectError::Class {
                place,
                value: value.clone(),
            }),
        }
    }

    /// The image of its sidecars. A driver of the class counts first (osm-edge), then the class's own field (OSM for
    /// Envoy), then the injector's default. What osm-edge's MeshConfigs name for `pipy` holds no program of ours.
    pub(crate) fn image(
        self,
        config: &SidecarSpec,
        settings: &Settings,
    ) -> Result<String, InjectError> {
        let (name, field, of_config, default) = match self {
            Self::OsmProxy => (
                "osm-proxy",
                "sidecarImage",
                &config.sidecar_image,
                &settings.sidecar_image,
            ),
            Self::Envoy => (
                "envoy",
                "envoyImage",
                &config.envoy_image,
                &settings.envoy_image,
            ),
        };
        let driver = config
            .sidecar_drivers
            .iter()
            .find(|driver| driver.sidecar_name == name)
            .map_or("", |driver| driver.sidecar_image.as_str());
        [driver, of_config, default]
            .into_iter()
            .find(|image| !image.is_empty())
            .map(str::to_owned)
            .ok_or(InjectError::Image(field))
    }
}
