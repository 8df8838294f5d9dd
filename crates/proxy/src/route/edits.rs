//! Changes to headers, with values that may be format strings.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::format::{Amended, Facts, Missing, Template};

/// Changes to headers of both directions.
#[derive(Debug, Default)]
pub struct Edits {
    /// Of requests.
    pub request: Mutations,
    /// Of responses.
    pub response: Mutations,
}

/// Changes to the headers of one direction.
#[derive(Debug, Default)]
pub struct Mutations {
    /// Removed, before anything is added.
    pub remove: Vec<HeaderName>,
    /// Added.
    pub add: Vec<HeaderAdd>,
}

/// A header to be added.
#[derive(Debug, Clone)]
pub struct HeaderAdd {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderText,
    /// How it meets one that is there.
    pub mode: AddMode,
    /// It is added although its value is empty.
    pub keep_empty: bool,
}

/// A header's value as configured.
#[derive(Debug, Clone)]
pub enum HeaderText {
    /// Always the same.
    Literal(HeaderValue),
    /// With commands.
    Template(Template),
}

/// How an added header meets one that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddMode {
    /// Beside it.
    Append,
    /// Only if there is none.
    IfAbsent,
    /// In its place.
    Overwrite,
    /// In its place, only if there is one.
    OverwriteIfPresent,
}

// === impl Mutations ===

impl Mutations {
    /// Changes a request's headers. `facts` need not know them: they are asked of the headers as they are just then.
    pub fn request(&self, headers: &mut HeaderMap, facts: &dyn Facts) {
        self.apply(headers, |name, headers| {
            let facts = Amended {
                facts,
                request: Some(headers),
                response: None,
            };
            name.value(&facts)
        });
    }

    /// Changes a response's headers, likewise.
    pub fn response(&self, headers: &mut HeaderMap, facts: &dyn Facts) {
        self.apply(headers, |name, headers| {
            let facts = Amended {
                facts,
                request: None,
                response: Some(headers),
            };
            name.value(&facts)
        });
    }

    /// Whether a value depends on anything.
    pub fn asks(&self) -> bool {
        let mut values = self.add.iter().map(|add| &add.value);
        values.any(|value| matches!(value, HeaderText::Template(_)))
    }

    /// Removes, computes all values, overwrites, then adds: Envoy's order, in which no value sees another's change.
    fn apply(
        &self,
        headers: &mut HeaderMap,
        value: impl Fn(&HeaderText, &HeaderMap) -> Option<HeaderValue>,
    ) {
        for name in &self.remove {
            headers.remove(name);
        }
        if let [only] = self.add.as_slice() {
            if let Some(value) = value(&only.value, headers).filter(|value| only.wants(value)) {
                only.mode.apply(headers, only.name.clone(), value);
            }
            return;
        }
        let mut added: Vec<(&HeaderName, HeaderValue)> = Vec::new();
        let mut overwritten: Vec<(&HeaderName, HeaderValue)> = Vec::new();
        for add in &self.add {
            let Some(value) = value(&add.value, headers).filter(|value| add.wants(value)) else {
                continue;
            };
            let present = headers.contains_key(&add.name);
            match add.mode {
                AddMode::Append => added.push((&add.name, value)),
                AddMode::IfAbsent if !present => added.push((&add.name, value)),
                AddMode::OverwriteIfPresent if present => overwritten.push((&add.name, value)),
                AddMode::Overwrite => overwritten.push((&add.name, value)),
                AddMode::IfAbsent | AddMode::OverwriteIfPresent => {}
            }
        }
        for (name, value) in overwritten {
            headers.insert(name.clone(), value);
        }
        for (name, value) in added {
            headers.append(name.clone(), value);
        }
    }
}

impl HeaderAdd {
    fn wants(&self, value: &HeaderValue) -> bool {
        self.keep_empty || !value.is_empty()
    }
}

// === impl HeaderText, AddMode ===

impl HeaderText {
    /// The value; `None` if it would not be one.
    pub fn value(&self, facts: &dyn Facts) -> Option<HeaderValue> {
        match self {
            HeaderText::Literal(value) => Some(value.clone()),
            HeaderText::Template(template) => {
                HeaderValue::try_from(template.format(facts, Missing::Empty)).ok()
            }
        }
    }
}

impl AddMode {
    /// Puts a header among others.
    pub fn apply(self, headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
        let present = headers.contains_key(&name);
        match self {
            AddMode::Append => {
                headers.append(name, value);
            }
            AddMode::IfAbsent if present => {}
            AddMode::OverwriteIfPresent if !present => {}
            AddMode::IfAbsent | AddMode::Overwrite | AddMode::OverwriteIfPresent => {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Facts for Nothing {
        fn request(&self) -> Option<crate::matcher::RequestView<'_>> {
            None
        }
    }

    struct Get(HeaderMap);

    impl Facts for Get {
        fn request(&self) -> Option<crate::matcher::RequestView<'_>> {
            Some(crate::matcher::RequestView {
                method: "GET",
                path_and_query: "/",
                authority: "h",
                scheme: "http",
                headers: &self.0,
            })
        }
    }

    fn add(name: &'static str, value: &str, mode: AddMode) -> HeaderAdd {
        let template = Template::parse(value).unwrap();
        HeaderAdd {
            name: HeaderName::from_static(name),
            value: match template.literal() {
                Some(text) => HeaderText::Literal(HeaderValue::from_str(text).unwrap()),
                None => HeaderText::Template(template),
            },
            mode,
            keep_empty: false,
        }
    }

    fn changed(mutations: &Mutations, before: &[(&'static str, &str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in before {
            headers.append(*name, value.parse().unwrap());
        }
        mutations.request(&mut headers, &Get(HeaderMap::new()));
        headers
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn every_mode_meets_what_is_there_and_what_is_not() {
        let cases: [(AddMode, &[&str], &[&str]); 4] = [
            (AddMode::Append, &["x=old", "x=new"], &["x=new"]),
            (AddMode::IfAbsent, &["x=old"], &["x=new"]),
            (AddMode::Overwrite, &["x=new"], &["x=new"]),
            (AddMode::OverwriteIfPresent, &["x=new"], &[]),
        ];
        for (mode, present, absent) in cases {
            for more in [None, Some(add("y", "1", AddMode::Overwrite))] {
                let tail: &[&str] = if more.is_some() { &["y=1"] } else { &[] };
                let mutations = Mutations {
                    remove: Vec::new(),
                    add: [add("x", "new", mode)].into_iter().chain(more).collect(),
                };
                let sorted = |mut list: Vec<String>| {
                    list.sort();
                    list
                };
                let with = |list: &[&str]| {
                    sorted(list.iter().chain(tail).map(|s| (*s).to_owned()).collect())
                };
                assert_eq!(
                    sorted(changed(&mutations, &[("x", "old")])),
                    with(present),
                    "{mode:?}"
                );
                assert_eq!(sorted(changed(&mutations, &[])), with(absent), "{mode:?}");
            }
        }
    }

    #[test]
    fn values_are_computed_after_removals_and_before_additions() {
        let mutations = Mutations {
            remove: vec![HeaderName::from_static("gone")],
            add: vec![
                add("a", "%REQ(gone)%", AddMode::Append),
                add("b", "%REQ(kept)%", AddMode::Append),
                add("kept", "new", AddMode::Overwrite),
                add("c", "%REQ(:METHOD)%", AddMode::Append),
            ],
        };
        let before = [("gone", "1"), ("kept", "old")];
        assert_eq!(changed(&mutations, &before), ["kept=new", "b=old", "c=GET"]);
    }

    #[test]
    fn an_empty_value_is_added_only_where_it_is_wanted() {
        let mut empty = add("x", "%REQ(none)%", AddMode::Append);
        let none = Mutations {
            remove: Vec::new(),
            add: vec![empty.clone()],
        };
        assert!(changed(&none, &[]).is_empty());
        empty.keep_empty = true;
        let kept = Mutations {
            remove: Vec::new(),
            add: vec![empty],
        };
        assert_eq!(changed(&kept, &[]), ["x="]);
        let mut headers = HeaderMap::new();
        kept.response(&mut headers, &Nothing);
        assert_eq!(headers["x"], "");
    }
}
