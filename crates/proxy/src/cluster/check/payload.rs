//! What a TCP check says and wants to hear.

/// Bytes sent and blocks expected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Payload {
    /// Sent once connected; empty: nothing is.
    pub send: Vec<u8>,
    /// Expected in this order, with anything in between; none: being connected passes.
    pub receive: Vec<Vec<u8>>,
}

impl Payload {
    /// Whether what was received holds all blocks in order.
    pub(super) fn is_answered(&self, received: &[u8]) -> bool {
        let mut rest = received;
        self.receive.iter().all(|block| {
            let found = rest
                .windows(block.len().max(1))
                .position(|window| window == block.as_slice());
            let after = found.and_then(|at| rest.get(at.checked_add(block.len())?..));
            rest = after.unwrap_or_default();
            after.is_some()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_in_order_with_anything_between() {
        let payload = |blocks: &[&str]| Payload {
            send: Vec::new(),
            receive: blocks
                .iter()
                .map(|block| block.as_bytes().to_vec())
                .collect(),
        };
        let cases: [(&[&str], &str, bool); 7] = [
            (&[], "", true),
            (&["PONG"], "+PONG\r\n", true),
            (&["a", "b"], "xaxb", true),
            (&["a", "b"], "xbxa", false),
            (&["a", "a"], "a", false),
            (&["ab"], "a", false),
            (&["ab", "ba"], "aba", false),
        ];
        for (blocks, received, expected) in cases {
            let found = payload(blocks).is_answered(received.as_bytes());
            assert_eq!(found, expected, "{blocks:?} in {received:?}");
        }
    }
}
