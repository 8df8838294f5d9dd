//! Prints `src/schema.txt` from a folder with Envoy's `.proto` files (that of the crate envoy-types):
//! `cargo run -p schema --example schema -- PATH/proto > crates/schema/src/schema.txt`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use prost_reflect::{Cardinality, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use protox::file::{File, FileResolver, GoogleFileResolver};

/// Roots of imports below the folder, as `buf` and `protoc -I` would name them.
const ROOTS: [&str; 7] = [
    "data-plane-api",
    "xds",
    "googleapis",
    "protoc-gen-validate",
    "cel-spec/proto",
    "client_model",
    "opentelemetry-proto",
];

fn main() {
    let folder = PathBuf::from(
        std::env::args()
            .nth(1)
            .expect("the folder of the .proto files"),
    );
    let roots = ROOTS.map(|root| folder.join(root));
    let mut files = Vec::new();
    for tree in ["admin", "config", "data", "extensions", "service", "type"] {
        collect(&roots[0], &roots[0].join("envoy").join(tree), &mut files);
    }
    let mut compiler = protox::Compiler::with_file_resolver(Sources(roots.into()));
    compiler.include_imports(true);
    for file in files {
        compiler
            .open_file(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file));
    }
    let pool = compiler.descriptor_pool();
    let sensitive = pool
        .get_extension_by_name("udpa.annotations.sensitive")
        .unwrap();
    let is_sensitive =
        |field: &FieldDescriptor| field.options().get_extension(&sensitive).as_bool() == Some(true);
    let mut sections = BTreeMap::new();
    for message in pool.all_messages() {
        if wanted(message.full_name()) && !message.is_map_entry() {
            sections.insert(
                message.full_name().to_owned(),
                of_message(&message, &is_sensitive),
            );
        }
    }
    for list in pool.all_enums() {
        if wanted(list.full_name()) {
            sections.insert(list.full_name().to_owned(), of_enum(&list));
        }
    }
    for section in sections.into_values() {
        print!("{section}");
    }
}

/// Files below the roots. A relative name such as `config.core.v3.Address` means what it means to protoc, which looks
/// only into imported packages; protox finds `envoy.extensions.config` first, so that such names are made absolute.
struct Sources(Vec<PathBuf>);

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let found = self
            .0
            .iter()
            .map(|root| root.join(name))
            .find(|path| path.exists());
        let Some(path) = found else {
            return GoogleFileResolver::new().open_file(name);
        };
        let mut text = std::fs::read_to_string(&path).map_err(protox::Error::new)?;
        let imports: BTreeSet<String> = (text.lines())
            .filter_map(|line| line.strip_prefix("import \"")?.rsplit_once('/'))
            .map(|(package, _)| package.replace('/', "."))
            .collect();
        for package in imports {
            for prefix in ["envoy.extensions.", "envoy."] {
                let Some(relative) = package.strip_prefix(prefix) else {
                    continue;
                };
                for before in [" ", "(", "<"] {
                    text = text.replace(
                        &format!("{before}{relative}."),
                        &format!("{before}.{package}."),
                    );
                }
            }
        }
        File::from_source(name, &text)
    }
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<String>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(root, &path, files);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
            && path.parent().is_some_and(|parent| parent.ends_with("v3"))
        {
            files.push(path.strip_prefix(root).unwrap().display().to_string());
        }
    }
}

/// The well-known types are code; descriptors and annotations are nobody's configuration.
fn wanted(name: &str) -> bool {
    let without = [
        "google.protobuf.",
        "udpa.annotations.",
        "xds.annotations.",
        "envoy.annotations.",
        "validate.",
    ];
    !without.iter().any(|prefix| name.starts_with(prefix))
}

fn of_message(
    message: &MessageDescriptor,
    is_sensitive: &dyn Fn(&FieldDescriptor) -> bool,
) -> String {
    let mut text = format!("={}\n", message.full_name());
    for field in message.fields() {
        let kind = match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
                format!("%{}:{}", of_kind(&key.kind()), of_kind(&value.kind()))
            }
            kind if field.cardinality() == Cardinality::Repeated => format!("*{}", of_kind(&kind)),
            kind => of_kind(&kind),
        };
        let secret = if is_sensitive(&field) { "!" } else { "" };
        let _ = write!(text, "{} {} {secret}{kind}", field.number(), field.name());
        if let Some(choice) = field.containing_oneof() {
            let _ = write!(text, " {}", choice.name());
        }
        text.push('\n');
    }
    text
}

fn of_enum(list: &EnumDescriptor) -> String {
    let mut text = format!("#{}\n", list.full_name());
    for value in list.values() {
        let _ = writeln!(text, "{} {}", value.number(), value.name());
    }
    text
}

fn of_kind(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "b".into(),
        Kind::Int32 => "i".into(),
        Kind::Int64 => "I".into(),
        Kind::Uint32 => "u".into(),
        Kind::Uint64 => "U".into(),
        Kind::Sint32 => "s".into(),
        Kind::Sint64 => "S".into(),
        Kind::Fixed32 => "f".into(),
        Kind::Fixed64 => "F".into(),
        Kind::Sfixed32 => "g".into(),
        Kind::Sfixed64 => "G".into(),
        Kind::Float => "r".into(),
        Kind::Double => "d".into(),
        Kind::String => "t".into(),
        Kind::Bytes => "y".into(),
        Kind::Enum(list) => format!("e{}", list.full_name()),
        Kind::Message(message) => format!("m{}", message.full_name()),
    }
}
