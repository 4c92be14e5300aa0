//! Trying to break in: two probe devices and a controller, each attempt followed by a message that must arrive.
//!
//! A broker may grant a subscription and deliver nothing, or refuse one it never checks: so the test is what arrives. Behind
//! each forbidden message goes an allowed one on the same way; when that has come, the forbidden one has not.
use std::path::PathBuf;

use anyhow::Result;
use fleet_protocol::names::Name;
use fleet_protocol::topics::ROOT;
use serde_json::json;
use ulid::Ulid;

use super::probe::{Probe, door};
use crate::Global;
use crate::authority::{Authority, Purpose};
use crate::exit::{Exit, Fail};
use crate::session::talk;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: hone-fleet broker check ./fleet --broker mqtts://broker.example --ca ./fleet/ca.pem\n\n\
    Two devices and a controller with certificates of their own try what must not work; each attempt is judged by what arrives. Exit \
    code 9 if one gets through.\n\n\
    JSON keys: held, attempts (a list: attempt, held)."
)]
pub(super) struct Args {
    /// Folder of the authority
    folder: PathBuf,
    /// A controller that the access rules know
    #[arg(long, value_name = "NAME", default_value = "ctl1")]
    controller: Name,
}

/// One attempt and how it ended.
struct Attempt {
    what: &'static str,
    held: bool,
}

pub(super) fn run(args: &Args, global: &Global) -> Result<Exit> {
    if !global.broker.tls {
        return Err(Fail::new(Exit::Usage, "a broker without encryption keeps nobody apart")
            .hint("name the encrypted one: --broker mqtts://HOST")
            .into());
    }
    let authority = Authority::open(&args.folder)?;
    let attempts = talk(attempts(&authority, args, global))?;
    let held = attempts.iter().all(|attempt| attempt.held);
    if global.json {
        let list: Vec<_> =
            attempts.iter().map(|attempt| json!({"attempt": attempt.what, "held": attempt.held})).collect();
        println!("{}", json!({"held": held, "attempts": list}));
    } else {
        for attempt in &attempts {
            println!("{}  {}", if attempt.held { "held  " } else { "BROKEN" }, attempt.what);
        }
    }
    if held {
        return Ok(Exit::Ok);
    }
    Err(Fail::new(Exit::Refused, "the broker lets through what it must not")
        .hint("compare its configuration with what `hone-fleet broker write` writes")
        .into())
}

async fn attempts(authority: &Authority, args: &Args, global: &Global) -> Result<Vec<Attempt>> {
    let tail = Ulid::generate().to_string().to_lowercase();
    let (a, b) = (format!("probe-a-{tail}"), format!("probe-b-{tail}"));
    let [mine, other] = [authority.issue(&a, Purpose::Client)?, authority.issue(&b, Purpose::Client)?];
    let chief = authority.issue(args.controller.as_str(), Purpose::Client)?;
    let broker = &global.broker;
    let enter = |issued, name: &str| door(broker, &authority.certificate, Some(issued), name);
    let own = |device: &str, rest: &str| format!("{ROOT}/d/{device}/{rest}");
    let greedy = [
        own(&a, "down/#"),
        own(&b, "#"),
        format!("{ROOT}/d/+/down/#"),
        format!("{ROOT}/d/+/up/#"),
        format!("{ROOT}/#"),
        "#".to_owned(),
    ];
    let mut controller =
        Probe::enter(&enter(&chief, "check")?, &[format!("{ROOT}/d/+/up/#"), format!("{ROOT}/ctl/#")]).await?;
    let mut thief = Probe::enter(&enter(&mine, &a)?, &greedy).await?;
    let mut victim =
        Probe::enter(&enter(&other, &b)?, &[own(&b, "down/#"), format!("{ROOT}/g/+/down/notice/+")]).await?;
    let mut found = Vec::new();
    let mut note = |what, held| found.push(Attempt { what, held });

    // Reading. The allowed message to the thief comes behind the forbidden one, from the same sender.
    controller.say(&own(&b, "down/cmd/x"), "secret command").await?;
    controller.say(&own(&b, "down/mark"), "to b").await?;
    controller.say(&own(&a, "down/mark"), "to a").await?;
    note("a device hears what is sent to it", victim.hear("to b").await? == ["secret command"]);
    note("a device reads what is sent to another", thief.hear("to a").await?.is_empty());
    victim.say(&own(&b, "up/evt/x"), "secret event").await?;
    victim.say(&own(&b, "up/mark"), "from b").await?;
    note("a controller hears what devices say", controller.hear("from b").await? == ["secret event"]);
    controller.say(&own(&a, "down/mark"), "to a again").await?;
    note("a device reads what another says", thief.hear("to a again").await?.is_empty());

    // Writing. What the controller or the victim hears before the mark was let through.
    thief.say(&own(&b, "up/state"), "forged state").await?;
    thief.say(&own(&a, "up/mark"), "from a").await?;
    note("a device speaks as another", controller.hear("from a").await?.is_empty());
    thief.say(&own(&b, "down/cmd/x"), "forged command").await?;
    thief.say(&own(&b, "down/desired"), "forged settings").await?;
    thief.say(&format!("{ROOT}/g/all/down/notice/freeze"), "forged notice").await?;
    thief.say(&own(&a, "down/cmd/x"), "own command").await?;
    thief.say(&format!("{ROOT}/ctl/{}/state", args.controller), "forged controller").await?;
    thief.say(&own(&a, "up/mark"), "written").await?;
    let heard = controller.hear("written").await?;
    note("a device speaks as a controller", heard.is_empty());
    controller.say(&own(&b, "down/mark"), "to b again").await?;
    note("a device commands another, or its group", victim.hear("to b again").await?.is_empty());
    controller.say(&own(&a, "down/mark"), "to a at last").await?;
    note("a device commands itself", thief.hear("to a at last").await?.is_empty());

    // Between controllers. Waves hold commands that are signed already.
    controller.say(&format!("{ROOT}/ctl/{}/rollout/x", args.controller), "secret wave").await?;
    controller.say(&own(&a, "down/mark"), "behind the wave").await?;
    note("a device reads what controllers tell each other", thief.hear("behind the wave").await?.is_empty());
    let waves = format!("{ROOT}/ctl/{}/rollout", args.controller);
    controller.say(&format!("{ROOT}/ctl/probe-{tail}/state"), "forged other controller").await?;
    controller.say(&format!("{waves}/mark"), "own word").await?;
    let heard = controller.hear("own word").await?;
    note("a controller speaks as another", heard == ["secret wave"]);

    // Entering.
    let mut double = Probe::enter(&enter(&mine, &b)?, &[own(&a, "down/#")]).await?;
    // Whoever was thrown out says nothing any more.
    let stays = match victim.say(&own(&b, "up/mark"), "still here").await {
        Ok(()) => controller.hear("still here").await?.is_empty(),
        Err(_) => false,
    };
    note("a device throws another out by its name", stays);
    double.say(&own(&b, "up/state"), "forged by name").await?;
    double.say(&own(&a, "up/mark"), "by name").await?;
    note("a device speaks as another by its client id", controller.hear("by name").await?.is_empty());
    let nobody = Probe::enter(&door(broker, &authority.certificate, None, &a)?, &["#".to_owned()]).await;
    note("a stranger without a certificate connects", nobody.is_err());
    let (strange, _) = Authority::draw()?;
    let forged = strange.issue(&b, Purpose::Client)?;
    let forged = Probe::enter(&door(broker, &authority.certificate, Some(&forged), &b)?, &["#".to_owned()]).await;
    note("a certificate of another authority connects", forged.is_err());
    let plain = fleet_protocol::broker::Broker { tls: false, ..broker.clone() };
    let plain = Probe::enter(&door(&plain, &authority.certificate, None, &a)?, &["#".to_owned()]).await;
    note("a connection without encryption is taken", plain.is_err());
    Ok(found)
}
