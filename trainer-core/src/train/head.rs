//! The head that is frozen: heads of all horizons run through the rows, and their mixture is kept.
use super::{TrainError, TrainSettings};
use crate::dataset::newest;
use crate::horizons::{HorizonSettings, Horizons, Scoring};
use crate::judge::{Losses, temperature};
use crate::model::{Model, Strategy, Work, softmax};
use crate::ridge::SolveMemory;
use crate::schema::Rows;
use crate::session::{HeadUnderWay, Session};

/// Labels per block while a head is trained that will be frozen.
const FROZEN_BLOCK: usize = 32;

/// Runs the multi-horizon heads through the rows in time order and freezes their mixture; returns multiply-adds.
///
/// Each row is first answered by the heads alone, without the champion's voice, as the frozen head will: that is what the newest
/// fifth is judged on. The temperature is fitted on the rows between the first half and that fifth.
pub(super) fn fit_head(
    session: &mut Session<'_>,
    model: &mut Model,
    parent: &Model,
    rows: &Rows,
    settings: &TrainSettings,
    strategy: Strategy,
) -> Result<u64, TrainError> {
    // A head that is frozen afterwards needs no refit at every label: blocks cost a thirtieth, for regression too.
    let block = if settings.heads.block == 0 { FROZEN_BLOCK } else { settings.heads.block };
    let heads = HorizonSettings { block, ..settings.heads.clone() };
    let mut memory = SolveMemory::default();
    // A retrained network has seen these rows, so only the parent may stand as the expert that speaks for the old model.
    let (mut work, mut voice) = (Work::default(), Work::default());
    let (mut mixture, mut y) = (Vec::new(), Vec::new());
    // What the heads said alone, and what was true: from the first row on that the temperature is fitted on.
    let outputs = model.network.outputs;
    let (first, judged) = (rows.len() / 2, newest(rows).start);
    let known = session.journal.head.take().filter(|known| fits(known, model, &heads, first, rows.len()));
    let mut under_way = if let Some(known) = known {
        known
    } else {
        let horizons = Horizons::new(model.factory.clone(), model.scoring(), heads, &mut memory)?;
        HeadUnderWay { rows: 0, heads: horizons, said_alone: Vec::new(), truths: Vec::new() }
    };
    let numbers = (rows.len() - first) * outputs;
    under_way.said_alone.reserve_exact(numbers - under_way.said_alone.len());
    under_way.truths.reserve_exact(numbers - under_way.truths.len());
    for row in under_way.rows..rows.len() {
        model.embed(rows.x(row), &mut work);
        model.target(rows.y(row), &mut y);
        if strategy != Strategy::Head {
            parent.answer(rows.x(row), &mut voice);
        }
        let champion = if strategy == Strategy::Head { &work.standard } else { &voice.standard };
        let HeadUnderWay { heads: horizons, said_alone, truths, .. } = &mut under_way;
        let share = horizons.weights().next().unwrap_or(0.0);
        let said = horizons.answer(&work.h, champion, &mut mixture);
        if row >= first {
            let pairs = mixture.iter().zip(champion);
            said_alone.extend(pairs.map(|(mixed, own)| (mixed - share * own) / (1.0 - share).max(1e-6)));
            truths.extend_from_slice(&y);
        }
        horizons.learn(&work.h, &y, Some(&said), &mut memory)?;
        under_way.rows = row + 1;
        session.head_row_done(&under_way)?;
    }
    let HeadUnderWay { heads: mut horizons, mut said_alone, truths, .. } = under_way;
    horizons.flush(&mut memory)?;
    model.head = Some(horizons.collapse());
    if model.scoring() == Scoring::Classes {
        let fitted = 0..(judged - first) * outputs;
        model.manifest.temperature = temperature(&said_alone[fitted.clone()], &truths[fitted], outputs);
    }
    let mut losses = Losses::new(model);
    for row in judged..rows.len() {
        let standard = &mut said_alone[(row - first) * outputs..(row - first + 1) * outputs];
        if model.scoring() == Scoring::Classes {
            softmax(standard, model.manifest.temperature);
        }
        losses.push(model, standard, rows.y(row));
    }
    losses.write_into(model);
    Ok(horizons.work_mac() + rows.len() as u64 * model.work_mac(true))
}

/// Whether a head under way is of this model, these settings and so many rows; `first` is the first one whose answer is kept.
fn fits(under_way: &HeadUnderWay, model: &Model, heads: &HorizonSettings, first: usize, rows: usize) -> bool {
    let kept = under_way.rows.saturating_sub(first) * model.network.outputs;
    under_way.rows <= rows
        && [&under_way.said_alone, &under_way.truths].iter().all(|numbers| numbers.len() == kept)
        && under_way.heads.is_of(&model.factory, model.scoring(), heads)
}
