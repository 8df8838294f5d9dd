//! The schema: `schema.txt`, sorted by name. `=message` with lines `number name kind [oneof]`, `#enum` with lines
//! `number NAME`. A kind is a letter, `m` and `e` with the type's name; `*` repeated, `%k:v` a map, `!` a secret.

use std::sync::OnceLock;

static TEXT: &str = include_str!("schema.txt");

/// A message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) fields: Vec<Field>,
}

/// A field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) kind: Kind,
    /// Holds key material.
    pub(crate) secret: bool,
    /// Of these only one may be set.
    pub(crate) choice: Option<&'static str>,
}

/// How often a field stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Single,
    Repeated,
    /// A map; the field's kind is that of the values.
    Map(Kind),
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Float,
    Double,
    Text,
    Bytes,
    Enum(&'static str),
    Message(&'static str),
}

/// A message by its full name.
pub(crate) fn message(name: &str) -> Option<Message> {
    let lines = section(name)?.strip_prefix('=')?.lines().skip(1);
    Some(Message {
        fields: lines.filter_map(field).collect(),
    })
}

/// The number of an enum's value.
pub(crate) fn number_of(list: &str, name: &str) -> Option<i32> {
    values(list).find_map(|(number, known)| (known == name).then_some(number))
}

/// The name of an enum's value.
pub(crate) fn name_of(list: &str, number: i32) -> Option<&'static str> {
    values(list).find_map(|(known, name)| (known == number).then_some(name))
}

fn values(list: &str) -> impl Iterator<Item = (i32, &'static str)> {
    let lines = section(list).unwrap_or_default().lines().skip(1);
    lines.filter_map(|line| {
        let (number, name) = line.split_once(' ')?;
        Some((number.parse().ok()?, name))
    })
}

/// A section's text, its first line included.
fn section(name: &str) -> Option<&'static str> {
    static STARTS: OnceLock<Vec<u32>> = OnceLock::new();
    let starts = STARTS.get_or_init(|| {
        let mut starts = vec![0];
        let bytes = TEXT.as_bytes().windows(2).enumerate();
        starts.extend(bytes.filter_map(|(at, pair)| match pair {
            [b'\n', b'=' | b'#'] => u32::try_from(at.checked_add(1)?).ok(),
            _ => None,
        }));
        starts
    });
    let text_at = |index: usize| {
        let start = usize::try_from(*starts.get(index)?).ok()?;
        let end = match starts.get(index.checked_add(1)?) {
            Some(end) => usize::try_from(*end).ok()?,
            None => TEXT.len(),
        };
        TEXT.get(start..end)
    };
    let title = |index: usize| {
        let first = text_at(index)?.lines().next()?;
        first.get(1..)
    };
    let (mut low, mut high) = (0, starts.len());
    while low < high {
        let middle = low.midpoint(high);
        match title(middle)?.cmp(name) {
            std::cmp::Ordering::Equal => return text_at(middle),
            std::cmp::Ordering::Less => low = middle.checked_add(1)?,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}

fn field(line: &'static str) -> Option<Field> {
    let mut words = line.split(' ');
    let number = words.next()?.parse().ok()?;
    let name = words.next()?;
    let word = words.next()?;
    let (secret, word) = match word.strip_prefix('!') {
        Some(word) => (true, word),
        None => (false, word),
    };
    let (shape, word) = if let Some(word) = word.strip_prefix('*') {
        (Shape::Repeated, word)
    } else if let Some(pair) = word.strip_prefix('%') {
        let (key, value) = pair.split_once(':')?;
        (Shape::Map(kind(key)?), value)
    } else {
        (Shape::Single, word)
    };
    Some(Field {
        number,
        name,
        shape,
        kind: kind(word)?,
        secret,
        choice: words.next(),
    })
}

fn kind(word: &'static str) -> Option<Kind> {
    let (letter, name) = word.split_at_checked(1)?;
    Some(match letter {
        "b" => Kind::Bool,
        "i" => Kind::Int32,
        "I" => Kind::Int64,
        "u" => Kind::Uint32,
        "U" => Kind::Uint64,
        "s" => Kind::Sint32,
        "S" => Kind::Sint64,
        "f" => Kind::Fixed32,
        "F" => Kind::Fixed64,
        "g" => Kind::Sfixed32,
        "G" => Kind::Sfixed64,
        "r" => Kind::Float,
        "d" => Kind::Double,
        "t" => Kind::Text,
        "y" => Kind::Bytes,
        "e" => Kind::Enum(name),
        "m" => Kind::Message(name),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_is_found_and_every_line_understood() {
        let mut sections = 0;
        for line in TEXT.lines() {
            if let Some(name) = line.strip_prefix('=') {
                sections += 1;
                let lines = section(name).unwrap().lines().count();
                assert_eq!(message(name).unwrap().fields.len(), lines - 1, "{name}");
            } else if let Some(name) = line.strip_prefix('#') {
                assert!(name_of(name, 0).is_some(), "{name}");
            }
        }
        assert!(sections > 1000);
        assert!(
            message("envoy.NoSuch").is_none() && message("").is_none() && message("zzz").is_none()
        );
    }

    #[test]
    fn every_type_that_a_field_names_is_there() {
        for name in TEXT.lines().filter_map(|line| line.strip_prefix('=')) {
            for field in message(name).unwrap().fields {
                match field.kind {
                    Kind::Message(target) => {
                        assert!(crate::knows(target), "{name}.{}: {target}", field.name)
                    }
                    Kind::Enum(target) => assert!(
                        section(target).is_some() || target == "google.protobuf.NullValue",
                        "{target}"
                    ),
                    _ => {}
                }
            }
        }
    }
}
