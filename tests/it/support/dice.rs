//! Numbers from the environment: for longer runs, and for the same run again.

/// How long a run is.
pub fn number(variable: &str, otherwise: u64) -> u64 {
    let text = std::env::var_os(variable);
    text.map_or(otherwise, |text| text.to_str().unwrap().parse().unwrap())
}

/// Shown when the test fails: `TENANTRY_TEST_SEED` repeats it.
pub fn seed() -> u64 {
    let seed = number("TENANTRY_TEST_SEED", rand::random());
    println!("TENANTRY_TEST_SEED={seed}");
    seed
}
