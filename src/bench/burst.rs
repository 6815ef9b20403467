//! Very many organizations at once, beside as many tenants by hand: whether what is cheap for fifty is cheap for
//! a thousand, in time and in memory. One round: it takes minutes.

use indicatif::ProgressBar;

use super::{
    Error, Measure, Options, ready::Ready, replica::Replica, report::Target, samples::median,
    server::Server,
};

const BURST: &str = "burst_1000_at_once";
const COST: &str = "burst_cost_ratio";
const RSS: &str = "burst_rss_mib";

/// What a burst is compared with: so many tenants at once, as often.
const FEW: u32 = 50;
const FEW_TIMES: usize = 3;

/// By a replica of its own, which has seen nothing else.
pub(super) async fn measure(
    options: &Options,
    server: &Server,
    progress: &ProgressBar,
) -> Result<Vec<Measure>, Error> {
    let count = options.tenants_burst;
    let replica = Replica::start_with_template(server).await?;
    let ready = Ready::new(server, &replica, progress);
    progress.set_message(format!("{FEW} organizations at once"));
    let mut few = Vec::new();
    for _ in 0..FEW_TIMES {
        few.push(ready.make_tenants(FEW).await? / f64::from(FEW));
        server.drop_tenants().await?;
    }
    progress.set_message(format!("{count} organizations at once"));
    server.checkpoint().await?;
    let ours = ready.make_tenants(count).await?;
    let rss_mib = replica.most_rss_mib()?;
    server.drop_tenants().await?;
    progress.set_message(format!("{count} tenants by hand"));
    server.checkpoint().await?;
    let floor = ready.by_hand_at_once(count).await?;
    replica.stop().await?;
    server.drop_tenants().await?;
    let cost = ours / f64::from(count) / median(few);
    let measures = [
        // 0.85 of the rate by hand
        Measure::plain(BURST, ours, "ms")
            .beside(floor)
            .target(Target::AtMost(1.18)),
        Measure::plain(COST, cost, "×").target(Target::AtMost(1.2)),
        Measure::plain(RSS, rss_mib, "MiB").target(Target::AtMost(150.0)),
    ];
    let wanted = measures.into_iter().filter(|it| options.wants(it.name));
    Ok(wanted.collect())
}
