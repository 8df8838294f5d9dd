//! Which requests are traced, as Envoy decides it: by lot over the request id, so that every proxy a request passes
//! decides alike, and the decision is kept in the id itself.

use http::header::HeaderValue;

use crate::fraction::Fraction;

/// Where a version 4 UUID says its version, which carries the decision instead.
const PLACE: usize = 14;
/// The steps of a lot over a request id.
const STEPS: u64 = 10_000;

/// Why a request is traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It is not.
    Untraced,
    /// By lot.
    Sampled,
    /// The proxy before says so (`x-envoy-force-trace`).
    Service,
    /// The client says so (`x-client-trace-id`).
    Client,
}

/// Shares of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Of those whose client asks for a trace.
    pub client: Fraction,
    /// Of all others.
    pub random: Fraction,
    /// Of those that would be traced.
    pub overall: Fraction,
}

/// What is asked of a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wishes {
    /// Its client wants a trace.
    pub client: bool,
    /// The proxy before wants a trace.
    pub service: bool,
}

/// What was decided.
#[derive(Debug, PartialEq, Eq)]
pub struct Decision {
    /// Why it is traced.
    pub cause: Cause,
    /// The request's id that carries the decision, if it is another.
    pub id: Option<HeaderValue>,
}

impl Cause {
    fn letter(self) -> u8 {
        match self {
            Cause::Untraced => b'4',
            Cause::Sampled => b'9',
            Cause::Service => b'a',
            Cause::Client => b'b',
        }
    }

    /// The decision that a request id carries; none if it is no UUID.
    fn of(id: &[u8]) -> Option<Cause> {
        if id.len() != 36 {
            return None;
        }
        Some(match id.get(PLACE)? {
            b'9' => Cause::Sampled,
            b'a' => Cause::Service,
            b'b' => Cause::Client,
            _ => Cause::Untraced,
        })
    }
}

/// The number that an id's first digits are: even in distribution, and the same for all who see it.
fn number(id: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(id.get(..8)?).ok()?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(is_hex.then_some(digits)?, 16).ok()
}

/// Decides about the request with this id; `roll` is any number.
pub fn decide(id: Option<&HeaderValue>, wishes: Wishes, shares: &Shares, roll: u64) -> Decision {
    let untraced = Decision {
        cause: Cause::Untraced,
        id: None,
    };
    let Some(id) = id.map(HeaderValue::as_bytes) else {
        return untraced;
    };
    let (Some(before), Some(number)) = (Cause::of(id), number(id)) else {
        return untraced;
    };
    let lot = number % STEPS;
    let mut cause = before;
    if before == Cause::Untraced {
        if wishes.client && shares.client.takes(roll) {
            cause = Cause::Client;
        } else if wishes.service {
            cause = Cause::Service;
        } else if shares.random.takes(lot) {
            cause = Cause::Sampled;
        }
    }
    if cause != Cause::Untraced && !shares.overall.takes(lot) {
        cause = Cause::Untraced;
    }
    let id = (cause != before).then(|| marked(id, cause)).flatten();
    Decision { cause, id }
}

fn marked(id: &[u8], cause: Cause) -> Option<HeaderValue> {
    let mut id = id.to_vec();
    *id.get_mut(PLACE)? = cause.letter();
    HeaderValue::from_bytes(&id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Shares = Shares {
        client: Fraction::ALL,
        random: Fraction::ALL,
        overall: Fraction::ALL,
    };

    /// An id whose number modulo 10 000 is `lot`.
    fn id(lot: u32, letter: char) -> HeaderValue {
        let text = format!("{lot:08x}-1111-{letter}111-8111-111111111111");
        text.parse().unwrap()
    }

    fn share(numerator: u32) -> Fraction {
        Fraction {
            numerator,
            denominator: 10_000,
        }
    }

    #[test]
    fn the_id_decides_and_carries_the_decision() {
        let none = Shares {
            client: Fraction::NONE,
            random: Fraction::NONE,
            overall: Fraction::ALL,
        };
        let some = Shares {
            random: share(100),
            ..ALL
        };
        let stopped = Shares {
            overall: Fraction::NONE,
            ..ALL
        };
        let client = Wishes {
            client: true,
            ..Wishes::default()
        };
        let service = Wishes {
            service: true,
            ..Wishes::default()
        };
        let nobody = Wishes::default();
        let cases = [
            (ALL, nobody, '4', 5, Cause::Sampled, Some('9')),
            (none, nobody, '4', 5, Cause::Untraced, None),
            (none, nobody, '9', 5, Cause::Sampled, None),
            (some, nobody, '4', 99, Cause::Sampled, Some('9')),
            (some, nobody, '4', 100, Cause::Untraced, None),
            (ALL, client, '4', 5, Cause::Client, Some('b')),
            (none, client, '4', 5, Cause::Untraced, None),
            (none, service, '4', 5, Cause::Service, Some('a')),
            (ALL, service, '9', 5, Cause::Sampled, None),
            (stopped, client, '4', 5, Cause::Untraced, None),
            (stopped, nobody, 'b', 5, Cause::Untraced, Some('4')),
        ];
        for (shares, wishes, letter, lot, cause, marked) in cases {
            let decision = decide(Some(&id(lot, letter)), wishes, &shares, 0);
            let expected = Decision {
                cause,
                id: marked.map(|letter| id(lot, letter)),
            };
            assert_eq!(decision, expected, "{wishes:?} {letter} {lot}");
        }
    }

    #[test]
    fn what_is_no_uuid_is_not_traced() {
        let long = "x".repeat(36);
        for text in [
            "",
            "abc",
            "11111111-1111-4111-8111-11111111111",
            long.as_str(),
        ] {
            let decision = decide(Some(&text.parse().unwrap()), Wishes::default(), &ALL, 0);
            assert_eq!(
                (decision.cause, decision.id),
                (Cause::Untraced, None),
                "{text}"
            );
        }
        assert_eq!(
            decide(None, Wishes::default(), &ALL, 0).cause,
            Cause::Untraced
        );
    }
}
