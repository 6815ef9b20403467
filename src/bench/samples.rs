//! Durations of single operations, and medians of rounds.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Durations, to the microsecond and three digits.
#[derive(Debug, Clone)]
pub(super) struct Samples(Histogram<u64>);

impl Samples {
    pub(super) fn new() -> Self {
        Self(Histogram::new(3).expect("three digits are a precision it has"))
    }

    pub(super) fn add(&mut self, took: Duration) {
        // it grows with its values: nothing is out of range
        let _ = self
            .0
            .record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn merge(&mut self, other: &Self) {
        // the same precision and as large as needed: nothing is lost
        let _ = self.0.add(&other.0);
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds of minutes fit a double"
    )]
    pub(super) fn percentile_ms(&self, percentile: f64) -> f64 {
        self.0.value_at_quantile(percentile / 100.0) as f64 / 1000.0
    }
}

/// The middle one; of an even number the mean of the two in the middle.
pub(super) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match (figures.len(), figures.len() / 2) {
        (0, _) => 0.0,
        (length, middle) if length % 2 == 1 => figures[middle],
        (_, middle) => f64::midpoint(figures[middle - 1], figures[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_keep_what_they_are_given() {
        let (mut all, mut slow) = (Samples::new(), Samples::new());
        (1..=50).for_each(|ms| all.add(Duration::from_millis(ms)));
        (51..=100).for_each(|ms| slow.add(Duration::from_millis(1000 * ms)));
        all.merge(&slow);
        assert_eq!(all.count(), 100);
        assert!((all.percentile_ms(50.0) / 50.0 - 1.0).abs() < 0.001);
        assert!((all.percentile_ms(99.0) / 99_000.0 - 1.0).abs() < 0.001);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(vec![9.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 9.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median(Vec::new()).abs() < f64::EPSILON);
    }
}
