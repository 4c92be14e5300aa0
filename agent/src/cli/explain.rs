//! `hone explain`: why a model was promoted or refused, one sentence per fact.
use anyhow::Result;

use super::Global;
use super::ask::{agent, fail, list, short, text};

/// Arguments of `hone explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone explain 3f9a1c\n         hone explain --json | jq .facts.trial")]
pub struct Args {
    /// Beginning of the model's digest [default: the champion]
    #[arg(value_name = "MODEL")]
    model: Option<String>,
}

/// Asks and prints.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let hexadecimal = |model: &String| model.chars().filter(char::is_ascii_hexdigit).collect::<String>();
    let path = match &args.model {
        Some(model) if hexadecimal(model).len() == model.len() && !model.is_empty() => {
            format!("/v1/explain?model={}", model.to_ascii_lowercase())
        }
        Some(model) => {
            let message = format!("`{model}` is no beginning of a digest: use its first hexadecimal digits");
            return Err(super::exit::Fail::new(super::exit::Exit::Usage, message)
                .hint("`hone models` lists them")
                .into());
        }
        None => "/v1/explain".to_owned(),
    };
    let answer = agent(global)?.get(&path).map_err(fail)?;
    if global.json {
        println!("{answer}");
        return Ok(());
    }
    println!("model {}, {}", short(&answer["digest"]), text(&answer["status"]));
    for sentence in list(&answer, "because") {
        println!("- {}", text(sentence));
    }
    Ok(())
}
