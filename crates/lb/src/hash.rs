//! The two hash functions of Envoy's consistent hashing. They are no defence against chosen input.

/// xxHash64's primes, <https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>.
const PRIMES: [u64; 5] = [
    0x9E37_79B1_85EB_CA87,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0x85EB_CA77_C2B2_AE63,
    0x27D4_EB2F_1656_67C5,
];
/// The multiplier of MurmurHash64A.
const MURMUR: u64 = 0xC6A4_A793_5BD1_E995;
/// The seed libstdc++ gives its `std::hash`, which Envoy's `MURMUR_HASH_2` stands for.
const MURMUR_SEED: u64 = 0xC70F_6907;

/// xxHash64.
pub fn xx64(bytes: &[u8], seed: u64) -> u64 {
    let [one, two, three, four, five] = PRIMES;
    let mut blocks = bytes.chunks_exact(32);
    let mut hash = if bytes.len() >= 32 {
        let mut lanes = [
            seed.wrapping_add(one).wrapping_add(two),
            seed.wrapping_add(two),
            seed,
            seed.wrapping_sub(one),
        ];
        for block in blocks.by_ref() {
            for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(8)) {
                *lane = round(*lane, little(word));
            }
        }
        let [a, b, c, d] = lanes;
        let joined = a
            .rotate_left(1)
            .wrapping_add(b.rotate_left(7))
            .wrapping_add(c.rotate_left(12))
            .wrapping_add(d.rotate_left(18));
        lanes.iter().fold(joined, |hash, lane| {
            (hash ^ round(0, *lane))
                .wrapping_mul(one)
                .wrapping_add(four)
        })
    } else {
        seed.wrapping_add(five)
    };
    hash = hash.wrapping_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    let mut words = blocks.remainder().chunks_exact(8);
    for word in words.by_ref() {
        hash ^= round(0, little(word));
        hash = hash.rotate_left(27).wrapping_mul(one).wrapping_add(four);
    }
    let mut halves = words.remainder().chunks_exact(4);
    for half in halves.by_ref() {
        hash ^= little(half).wrapping_mul(one);
        hash = hash.rotate_left(23).wrapping_mul(two).wrapping_add(three);
    }
    for byte in halves.remainder() {
        hash ^= u64::from(*byte).wrapping_mul(five);
        hash = hash.rotate_left(11).wrapping_mul(one);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(two);
    hash = (hash ^ (hash >> 29)).wrapping_mul(three);
    hash ^ (hash >> 32)
}

fn round(lane: u64, word: u64) -> u64 {
    let [one, two, ..] = PRIMES;
    lane.wrapping_add(word.wrapping_mul(two))
        .rotate_left(31)
        .wrapping_mul(one)
}

/// MurmurHash64A with the seed of `std::hash`.
pub fn murmur2(bytes: &[u8]) -> u64 {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let mut hash = MURMUR_SEED ^ length.wrapping_mul(MURMUR);
    let mut words = bytes.chunks_exact(8);
    for word in words.by_ref() {
        let mut mixed = little(word).wrapping_mul(MURMUR);
        mixed = (mixed ^ (mixed >> 47)).wrapping_mul(MURMUR);
        hash = (hash ^ mixed).wrapping_mul(MURMUR);
    }
    if !words.remainder().is_empty() {
        hash = (hash ^ little(words.remainder())).wrapping_mul(MURMUR);
    }
    hash = (hash ^ (hash >> 47)).wrapping_mul(MURMUR);
    hash ^ (hash >> 47)
}

/// Up to eight bytes as a little-endian number.
fn little(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xx64_yields_the_published_values() {
        // From the specification's reference implementation.
        let cases: [(&[u8], u64, u64); 6] = [
            (b"", 0, 0xEF46_DB37_51D8_E999),
            (b"a", 0, 0xD24E_C4F1_A98C_6E5B),
            (b"abc", 0, 0x44BC_2CF5_AD77_0999),
            (b"foo", 0, 3_728_699_739_546_630_719),
            (b"bar", 0, 5_234_164_152_756_840_025),
            (
                b"Nobody inspects the spammish repetition",
                0,
                0xFBCE_A83C_8A37_8BF1,
            ),
        ];
        for (bytes, seed, expected) in cases {
            assert_eq!(xx64(bytes, seed), expected, "{bytes:?}");
        }
    }

    #[test]
    fn murmur2_yields_the_values_of_the_standard_library() {
        // libstdc++: std::hash<std::string>.
        let cases: [(&[u8], u64); 4] = [
            (b"foo", 9_631_199_822_919_835_226),
            (b"bar", 11_474_628_671_133_349_555),
            (b"foo.bar.baz", 11_107_016_510_693_903_662),
            (b"10.0.0.1:80_17", 4_437_040_220_721_654_695),
        ];
        for (bytes, expected) in cases {
            assert_eq!(murmur2(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn every_length_hashes_and_differs() {
        let bytes = [7u8; 100];
        let mut seen = std::collections::HashSet::new();
        for length in 0..=100 {
            assert!(seen.insert(xx64(&bytes[..length], 1)));
            assert!(seen.insert(murmur2(&bytes[..length])));
        }
    }
}
