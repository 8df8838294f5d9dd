//! The scenarios, by area.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use anyhow::Result;

use crate::scene::Scene;

mod acl;
mod acl_details;
mod broken;
mod cb;
mod cfg;
mod demo;
mod details;
mod drivers;
mod egr;
mod ext;
mod grpc;
mod ing;
mod inj;
mod inj_details;
mod inst;
mod ipt;
mod obs;
mod perm;
mod rl;
mod rty;
mod spec;
mod split;
mod tcp;
mod tcp_services;
mod traffic;
mod val;

/// One acceptance scenario.
pub struct Scenario {
    /// Its id.
    pub id: &'static str,
    /// How much it matters.
    pub priority: Priority,
    /// One line about it.
    pub title: &'static str,
    /// It changes what all scenarios share, so nothing runs beside it.
    pub alone: bool,
    /// Plays it.
    pub play: Play,
}

/// A scenario's function.
pub type Play = for<'a> fn(&'a Scene<'a>) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// How much a scenario matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Without it the mesh is useless.
    P0,
    /// Users would miss it soon.
    P1,
    /// Optional or exotic.
    P2,
}

/// Declares a scenario from an async function; `alone` for those that change the MeshConfig.
macro_rules! scenario {
    ($id:literal, $priority:ident, $play:ident, $title:literal $(, $alone:ident)?) => {
        $crate::scenarios::Scenario {
            id: $id,
            priority: $crate::scenarios::Priority::$priority,
            title: $title,
            alone: $crate::scenarios::scenario!(@ $($alone)?),
            play: |scene| Box::pin($play(scene)),
        }
    };
    (@) => { false };
    (@ alone) => { true };
}
pub(crate) use scenario;

/// Every scenario, in the order of their ids.
pub fn all() -> Vec<&'static Scenario> {
    [
        egr::ALL,
        obs::ALL,
        perm::ALL,
        acl::ALL,
        acl_details::ALL,
        demo::ALL,
        drivers::ALL,
        ing::ALL,
        inj::ALL,
        inj_details::ALL,
        inst::ALL,
        ipt::ALL,
        spec::ALL,
        split::ALL,
        tcp::ALL,
        tcp_services::ALL,
        details::ALL,
        grpc::ALL,
        cb::ALL,
        rl::ALL,
        rty::ALL,
        ext::ALL,
        cfg::ALL,
        val::ALL,
        broken::ALL,
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The scenario of an id that [`all`] gave.
pub fn by_id(id: &str) -> &'static Scenario {
    all()
        .into_iter()
        .find(|scenario| scenario.id == id)
        .expect("the id comes from the list")
}

// === impl Scenario ===

impl Scenario {
    /// Is it of one of the areas (or named by its id), and of the priority?
    pub fn chosen(&self, areas: &[String], priority: Option<Priority>) -> bool {
        let mut areas = areas
            .iter()
            .map(|area| area.trim())
            .filter(|area| !area.is_empty())
            .peekable();
        let area = self.id.split('-').next().unwrap_or_default();
        let in_area =
            areas.peek().is_none() || areas.any(|wanted| wanted == area || wanted == self.id);
        in_area && priority.is_none_or(|priority| priority == self.priority)
    }
}

impl std::str::FromStr for Priority {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "P0" => Ok(Self::P0),
            "P1" => Ok(Self::P1),
            "P2" => Ok(Self::P2),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_chosen_by_area_id_and_priority() {
        let mut ids: Vec<_> = all().iter().map(|scenario| scenario.id).collect();
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
        let chosen = |areas: &[&str], priority| {
            let areas: Vec<String> = areas.iter().map(|area| (*area).to_owned()).collect();
            by_id("EGR-04").chosen(&areas, priority)
        };
        assert!(
            chosen(&[], None)
                && chosen(&["EGR"], Some(Priority::P0))
                && chosen(&["ACL", "EGR-04"], None)
        );
        assert!(!chosen(&["ACL"], None) && !chosen(&["EGR"], Some(Priority::P1)));
    }
}
