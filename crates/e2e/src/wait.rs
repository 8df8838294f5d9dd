//! Waiting for conditions, always with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Pause between two tries: short beside the second within which a change of policy must be felt.
const PAUSE: Duration = Duration::from_millis(150);

/// Tries until it succeeds; gives the last error and the time when the deadline has passed.
pub async fn eventually<T>(
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if begin.elapsed() >= limit => {
                return Err(error).with_context(|| format!("not so after {} s", limit.as_secs()));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Tries until it succeeds so many times in a row: a condition that flaps does not count.
pub async fn steadily(
    times: u32,
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<()>,
) -> Result<()> {
    let begin = Instant::now();
    let mut in_a_row = 0;
    while in_a_row < times {
        match attempt().await {
            Ok(()) => in_a_row += 1,
            Err(error) if begin.elapsed() >= limit => {
                return Err(error).with_context(|| {
                    format!("not {times} times in a row within {} s", limit.as_secs())
                });
            }
            Err(_) => {
                in_a_row = 0;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::ensure;

    use super::*;

    #[tokio::test]
    async fn what_flaps_is_not_steady() {
        let calls = Cell::new(0);
        let flapping = async || {
            calls.set(calls.get() + 1);
            ensure!(calls.get() % 3 != 0, "not now");
            Ok(())
        };
        assert!(steadily(2, Duration::ZERO, flapping).await.is_ok());
        let error = steadily(3, Duration::ZERO, flapping)
            .await
            .expect_err("flaps");
        assert!(
            format!("{error:#}").contains("not 3 times in a row"),
            "{error:#}"
        );
    }
}
