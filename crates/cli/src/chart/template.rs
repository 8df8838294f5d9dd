//! Running the templates.
//!
//! The engine's functions are plain `fn` pointers, so what `include` and `.Capabilities.APIVersions.Has` need to know
//! is kept in a thread-local for the time of one rendering. The engine also has no methods with arguments: the latter
//! is rewritten to a function.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::anyhow;
use gtmpl_ng::{Context, FuncError, Template, Value};
use serde_json::Value as Json;

use super::functions::{TABLE, argument, fault, from_json, text};

/// What functions need of the rendering they are part of.
#[derive(Default)]
struct Scope {
    defined: HashMap<String, Template>,
    api_versions: BTreeSet<String>,
}

thread_local! {
    static SCOPE: RefCell<Scope> = RefCell::default();
}

/// Renders all templates that give objects; by name.
pub fn render(
    templates: &BTreeMap<String, String>,
    root: &Json,
    api_versions: &BTreeSet<String>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let helpers: BTreeMap<&String, &String> = templates
        .iter()
        .filter(|(name, _)| name.ends_with(".tpl"))
        .collect();
    let mut scope = Scope {
        defined: HashMap::new(),
        api_versions: api_versions.clone(),
    };
    for (file, text) in &helpers {
        for name in definitions(text) {
            let call = format!("{{{{ template {name:?} . }}}}");
            scope
                .defined
                .insert(name.to_owned(), compile(&helpers, file, &call)?);
        }
    }
    SCOPE.replace(scope);
    let root = Context::from(from_json(root));
    let objects = templates
        .iter()
        .filter(|(name, _)| name.ends_with(".yaml") || name.ends_with(".yml"));
    let rendered = objects.map(|(name, text)| {
        let template = compile(&helpers, name, text)?;
        let rendered = template
            .render(&root)
            .map_err(|error| anyhow!("chart template {name}: {error}"))?;
        Ok((name.clone(), rendered))
    });
    let rendered = rendered.collect();
    SCOPE.replace(Scope::default());
    rendered
}

/// `include NAME CONTEXT`: what the definition of that name gives.
pub fn include(arguments: &[Value]) -> Result<Value, FuncError> {
    let name = text(argument(arguments, 0)?);
    let context = Context::from(arguments.get(1).cloned().unwrap_or(Value::Nil));
    SCOPE.with_borrow(|scope| {
        let template = scope
            .defined
            .get(&name)
            .ok_or_else(|| fault(format!("no template {name:?}")))?;
        template.render(&context).map(Value::from).map_err(fault)
    })
}

/// Whether the cluster serves an API version.
pub fn has_api_version(arguments: &[Value]) -> Result<Value, FuncError> {
    let version = text(argument(arguments, 0)?);
    Ok(SCOPE
        .with_borrow(|scope| scope.api_versions.contains(&version))
        .into())
}

fn compile(
    helpers: &BTreeMap<&String, &String>,
    name: &str,
    text: &str,
) -> anyhow::Result<Template> {
    let mut template = Template::with_name(name);
    template.add_funcs(TABLE);
    for (helper, text) in helpers {
        template
            .add_template(helper.as_str(), text.as_str())
            .map_err(|error| anyhow!("chart template {helper}: {error}"))?;
    }
    let text = text
        .replace("$.Capabilities.APIVersions.Has", "hasApiVersion")
        .replace(".Capabilities.APIVersions.Has", "hasApiVersion");
    template
        .parse(text)
        .map_err(|error| anyhow!("chart template {name}: {error}"))?;
    Ok(template)
}

/// The names in `{{ define "name" }}`.
fn definitions(text: &str) -> impl Iterator<Item = &str> {
    text.split("define \"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
}
