//! Seeded gradient training: AdamW on batches, early stopping on the newest rows.
use serde::{Deserialize, Serialize};

use crate::autodiff::{Loss, Stride, Trainee};
use crate::chance::{Chance, Purpose};
use crate::network::{Network, Scratch};
use crate::session::{Session, Stopped};

/// How a network is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FitSettings {
    /// Most passes over the rows. Default 60.
    pub epochs: usize,
    /// Rows per step. Default 32.
    pub batch: usize,
    /// Step size of AdamW. Default 1e-3.
    pub learning_rate: f64,
    /// Decoupled weight decay. Default 1e-3: enough to keep idle weights from wandering.
    pub weight_decay: f32,
    /// Share of the newest rows held out for early stopping. Default 0.2; 0 trains all epochs on all rows.
    pub holdout: f32,
    /// Passes without a better hold-out loss before training stops. Default 10.
    pub patience: usize,
    /// Whether a second run trains on all rows for the number of passes that the hold-out found best. Default true:
    /// the newest rows are the most valuable ones in a drifting world.
    pub refit: bool,
}

impl Default for FitSettings {
    fn default() -> Self {
        Self { epochs: 60, batch: 32, learning_rate: 1e-3, weight_decay: 1e-3, holdout: 0.2, patience: 10, refit: true }
    }
}

/// Rows in time order as a network takes them, and what they should give; made row by row, never all at once.
pub(crate) trait Examples {
    /// Number of rows.
    fn len(&self) -> usize;
    /// Appends the input of `row`, as wide as the first trained layer takes it.
    fn input(&self, row: usize, into: &mut Vec<f32>);
    /// Appends the target of `row`, `[outputs]`, one-hot or standardised.
    fn target(&self, row: usize, into: &mut Vec<f32>);
}

/// What a fit did.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FitReport {
    /// Passes of the run that was kept.
    pub(crate) epochs: usize,
    /// Multiply-adds of all steps: forward, and twice that backward.
    pub(crate) work_mac: u64,
    /// The network as it was when the held-out rows were still unseen; none without held-out rows.
    pub(crate) judged: Option<Network>,
    /// Its loss there.
    pub(crate) held_loss: f64,
}

/// A fit that is over, as a checkpoint keeps it: numbers of the trained layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ended {
    network: Vec<f32>,
    /// Empty without held-out rows, or where the network was judged itself.
    judged: Vec<f32>,
    has_judged: bool,
    epochs: usize,
    held_loss: f64,
    work_mac: u64,
}

/// A fit under way, as a checkpoint keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Open {
    /// Judged on held-out rows, or on all rows to the end.
    run: Run,
    trainee: Trainee,
    /// Pass, from 1, and batches of it that are done.
    epoch: usize,
    batch: usize,
    /// Loss, pass and numbers of the best network on the held-out rows so far.
    best: (f64, usize, Vec<f32>),
    work_mac: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Run {
    /// Over the rows before the held-out ones.
    Judged,
    /// Over all rows, so many passes.
    Whole(usize),
}

/// One fit: what is trained, on what and how.
#[derive(Clone, Copy)]
pub(crate) struct Fit<'a> {
    /// The first layer that is trained.
    pub(crate) from: usize,
    pub(crate) examples: &'a dyn Examples,
    pub(crate) loss: Loss,
    pub(crate) settings: &'a FitSettings,
    /// Newest rows kept aside to stop early.
    pub(crate) held: usize,
    /// Strength of the pull towards the first weights.
    pub(crate) pull: f32,
    pub(crate) seed: u64,
}

impl Fit<'_> {
    /// Most gradient steps it takes.
    pub(crate) fn steps_max(&self) -> u64 {
        let steps = |rows: usize| (rows.div_ceil(self.settings.batch.max(1)) * self.settings.epochs) as u64;
        let rows = self.examples.len();
        if self.held == 0 {
            return steps(rows);
        }
        steps(rows - self.held) + if self.settings.refit { steps(rows) } else { 0 }
    }

    /// Trains the layers of `network`; the same examples, settings, seed and choices give the same bits, also where the
    /// session takes up a checkpoint. Told to stop, it leaves a checkpoint.
    pub(crate) fn train(&self, network: &mut Network, session: &mut Session<'_>) -> Result<FitReport, Stopped> {
        let index = session.fits;
        session.fits += 1;
        if session.journal.ended.get(index).is_none() {
            let ended = self.run(network, session)?;
            session.journal.ended.push(ended);
        }
        let ended = &session.journal.ended[index];
        let mut judged = None;
        if ended.has_judged {
            let mut own = network.clone();
            own.set_numbers(self.from, if ended.judged.is_empty() { &ended.network } else { &ended.judged });
            judged = Some(own);
        }
        network.set_numbers(self.from, &ended.network);
        Ok(FitReport { epochs: ended.epochs, work_mac: ended.work_mac, judged, held_loss: ended.held_loss })
    }

    fn run(&self, first: &Network, session: &mut Session<'_>) -> Result<Ended, Stopped> {
        let mut network = first.clone();
        let mut open = session.journal.open.take();
        if open.is_none() {
            let run = if self.held == 0 { Run::Whole(self.settings.epochs) } else { Run::Judged };
            let mut best = (f64::INFINITY, 0, Vec::new());
            if run == Run::Judged {
                let loss = self.mean_loss(&network, session).inspect_err(|_| session.save(None))?;
                best = (loss, 0, network.numbers(self.from));
            }
            open = Some(Open { run, trainee: self.trainee(first), epoch: 1, batch: 0, best, work_mac: 0 });
        }
        let mut state = open.as_mut().expect("filled above");
        if state.run == Run::Judged {
            self.passes(&mut network, &mut open, session)?;
            state = open.as_mut().expect("`passes` leaves it");
            let (_, epochs, best) = &state.best;
            if !self.settings.refit || *epochs == 0 || session.finishing() {
                let (held_loss, epochs, network) = std::mem::take(&mut state.best);
                let work_mac = state.work_mac;
                return Ok(Ended { network, judged: Vec::new(), has_judged: true, epochs, held_loss, work_mac });
            }
            debug_assert!(!best.is_empty(), "a judged run begins with its first network as the best");
            (state.run, state.epoch, state.batch) = (Run::Whole(*epochs), 1, 0);
            state.trainee = self.trainee(first);
            network = first.clone();
        }
        self.passes(&mut network, &mut open, session)?;
        let state = open.expect("`passes` leaves it");
        let Run::Whole(epochs) = state.run else { unreachable!("set above") };
        let (held_loss, _, judged) = state.best;
        let has_judged = self.held > 0;
        // Half a run over all rows is worth less than the whole one that was judged.
        let cut_short = has_judged && state.epoch <= epochs;
        let network = if cut_short { judged.clone() } else { network.numbers(self.from) };
        Ok(Ended { network, judged, has_judged, epochs, held_loss, work_mac: state.work_mac })
    }

    fn trainee(&self, network: &Network) -> Trainee {
        Trainee::new(network, self.from, self.pull, self.seed)
    }

    /// Passes over the rows until the run's end, or until no more steps shall be made.
    fn passes(&self, network: &mut Network, open: &mut Option<Open>, session: &mut Session<'_>) -> Result<(), Stopped> {
        let state = open.as_mut().expect("a fit under way");
        let judged = state.run == Run::Judged;
        let (train, epochs) = match state.run {
            Run::Judged => (self.examples.len() - self.held, self.settings.epochs),
            Run::Whole(epochs) => (self.examples.len(), epochs),
        };
        let stride = Stride {
            rate: self.settings.learning_rate,
            weight_decay: self.settings.weight_decay,
            pull: self.pull,
            micro_batch: session.micro_batch(),
        };
        let (mut x, mut y) = (Vec::new(), Vec::new());
        loop {
            let state = open.as_mut().expect("a fit under way");
            if state.epoch > epochs {
                break;
            }
            let order = Chance::new(self.seed, Purpose::Order, state.epoch as u64).order(train);
            for batch in order.chunks(self.settings.batch.max(1)).skip(state.batch) {
                if session.finishing() {
                    return self.conclude(network, open, train, session);
                }
                x.clear();
                y.clear();
                for &row in batch {
                    self.examples.input(row, &mut x);
                    self.examples.target(row, &mut y);
                }
                let state = open.as_mut().expect("a fit under way");
                state.trainee.step(network, &x, &y, self.loss, stride);
                state.work_mac += 3 * batch.len() as u64 * network.work_mac(self.from);
                state.batch += 1;
                session.journal.steps += 1;
                session.step_done(open.as_ref())?;
            }
            if judged && !self.judge(network, open, train, session)? {
                return Ok(());
            }
            let state = open.as_mut().expect("a fit under way");
            state.epoch += 1;
            state.batch = 0;
        }
        if judged { Ok(()) } else { self.conclude(network, open, train, session) }
    }

    /// Compares the network after a pass with the best one so far; whether another pass may bring anything.
    fn judge(
        &self,
        network: &mut Network,
        open: &mut Option<Open>,
        train: usize,
        session: &mut Session<'_>,
    ) -> Result<bool, Stopped> {
        self.conclude(network, open, train, session)?;
        let now = self.mean_loss(network, session).inspect_err(|_| session.save(open.as_ref()))?;
        let state = open.as_mut().expect("a fit under way");
        if now < state.best.0 {
            state.best = (now, state.epoch, network.numbers(self.from));
            return Ok(true);
        }
        Ok(state.epoch < state.best.1 + self.settings.patience.max(1))
    }

    /// Writes the weights into `network`, with the statistics that belong to them.
    fn conclude(
        &self,
        network: &mut Network,
        open: &mut Option<Open>,
        train: usize,
        session: &mut Session<'_>,
    ) -> Result<(), Stopped> {
        open.as_ref().expect("a fit under way").trainee.write_into(network);
        let mut stopped = Ok(());
        network.estimate_norms(self.from, train, &mut |row, into| {
            self.examples.input(row, into);
            stopped = stopped.and_then(|()| session.row_done());
        });
        stopped.inspect_err(|_| session.save(open.as_ref()))
    }

    fn mean_loss(&self, network: &Network, session: &mut Session<'_>) -> Result<f64, Stopped> {
        let mut scratch = Scratch::default();
        let (mut x, mut y, mut sum) = (Vec::new(), Vec::new(), 0.0);
        for row in self.examples.len() - self.held..self.examples.len() {
            x.clear();
            y.clear();
            self.examples.input(row, &mut x);
            self.examples.target(row, &mut y);
            if self.from == 0 {
                network.forward(&x, &mut scratch);
            } else {
                network.forward_from_cut(&x, &mut scratch);
            }
            sum += match self.loss {
                Loss::CrossEntropy => cross_entropy(&scratch.output, &y),
                Loss::Square => scratch.output.iter().zip(&y).map(|(o, y)| f64::from(o - y).powi(2)).sum(),
            };
            session.row_done()?;
        }
        Ok(sum / self.held as f64)
    }
}

fn cross_entropy(logits: &[f32], y: &[f32]) -> f64 {
    let highest = logits.iter().copied().fold(f32::MIN, f32::max);
    let total: f64 = logits.iter().map(|l| f64::from(l - highest).exp()).sum();
    let right: f64 = logits.iter().zip(y).map(|(l, y)| f64::from(l * y)).sum();
    total.ln() + f64::from(highest) - right
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{CheckpointError, Progress, RunChoices, Surroundings, Undisturbed, Wish};
    use crate::spec::{Layer, Spec};

    /// Two classes split by the sign of x0·x1, which no linear map can do.
    fn quadrants(rows: usize) -> (Vec<f32>, Vec<f32>) {
        let mut chance = Chance::new(3, Purpose::Sample, 0);
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for _ in 0..rows {
            let (a, b) = (chance.normal(), chance.normal());
            x.extend([a, b]);
            y.extend(if a * b > 0.0 { [1.0, 0.0] } else { [0.0, 1.0] });
        }
        (x, y)
    }

    struct Pairs(Vec<f32>, Vec<f32>);

    impl Examples for Pairs {
        fn len(&self) -> usize {
            self.1.len() / 2
        }

        fn input(&self, row: usize, into: &mut Vec<f32>) {
            into.extend_from_slice(&self.0[2 * row..2 * row + 2]);
        }

        fn target(&self, row: usize, into: &mut Vec<f32>) {
            into.extend_from_slice(&self.1[2 * row..2 * row + 2]);
        }
    }

    fn trained(spec: &Spec, seed: u64) -> Network {
        train_in(&mut Undisturbed, None, RunChoices::default(), spec, seed).unwrap().0
    }

    fn train_in(
        surroundings: &mut dyn Surroundings,
        checkpoint: Option<&[u8]>,
        choices: RunChoices,
        spec: &Spec,
        seed: u64,
    ) -> Result<(Network, RunChoices), Stopped> {
        let (x, y) = quadrants(600);
        let mut network = Network::new(spec, 2, 2, seed).unwrap();
        let settings = FitSettings { learning_rate: 1e-2, epochs: 30, ..FitSettings::default() };
        let examples = Pairs(x, y);
        let loss = Loss::CrossEntropy;
        let fit = Fit { from: 0, examples: &examples, loss, settings: &settings, held: 120, pull: 0.0, seed };
        let mut session = Session::new(surroundings, [7; 32], choices, checkpoint).unwrap();
        fit.train(&mut network, &mut session)?;
        Ok((network, session.choices()))
    }

    /// Has its wish at the pause `at`, counted from 1.
    struct Once {
        at: u64,
        wish: Wish,
        pauses: u64,
        kept: Option<Vec<u8>>,
    }

    impl Once {
        fn new(at: u64, wish: Wish) -> Self {
            Self { at, wish, pauses: 0, kept: None }
        }
    }

    impl Surroundings for Once {
        fn pause(&mut self, _: Progress) -> Wish {
            self.pauses += 1;
            if self.pauses == self.at { self.wish } else { Wish::Continue }
        }

        fn keep(&mut self, checkpoint: &[u8]) {
            self.kept = Some(checkpoint.to_vec());
        }
    }

    /// Batch norm, so that a stop can also fall into the estimate of its statistics.
    fn normed() -> Spec {
        Spec { cut: 1, layers: vec![Layer::Linear { outputs: 8 }, Layer::BatchNorm, Layer::Relu], reconstruct: false }
    }

    #[test]
    fn a_training_stopped_anywhere_and_resumed_gives_the_bits_of_one_that_was_not() {
        let mut quiet = Once::new(0, Wish::Continue);
        let (whole, _) = train_in(&mut quiet, None, RunChoices::default(), &normed(), 5).unwrap();
        let mut resumed = 0;
        for part in 1..24 {
            let mut once = Once::new(quiet.pauses * part / 24, Wish::Stop);
            let stopped = train_in(&mut once, None, RunChoices::default(), &normed(), 5);
            assert_eq!(stopped.unwrap_err(), Stopped);
            let kept = once.kept.expect("a checkpoint");
            let mut undisturbed = Once::new(0, Wish::Continue);
            let again = train_in(&mut undisturbed, Some(&kept), RunChoices::default(), &normed(), 5).unwrap();
            assert_eq!(again.0, whole, "stopped at pause {}", once.at);
            resumed += u64::from(undisturbed.pauses < quiet.pauses);
        }
        assert!(resumed >= 22, "a resume must not start over: {resumed} of 23");
    }

    #[test]
    fn a_training_told_to_finish_is_repeated_from_its_last_step() {
        let mut once = Once::new(200, Wish::Finish);
        let (network, choices) = train_in(&mut once, None, RunChoices::default(), &normed(), 5).unwrap();
        assert!(choices.last_step.is_some());
        assert_eq!(train_in(&mut Undisturbed, None, choices, &normed(), 5).unwrap().0, network);
        assert_ne!(trained(&normed(), 5), network);
    }

    #[test]
    fn checkpoints_of_other_settings_and_broken_ones_are_refused() {
        let mut once = Once::new(100, Wish::Stop);
        assert!(train_in(&mut once, None, RunChoices::default(), &normed(), 5).is_err());
        let kept = once.kept.unwrap();
        let open = |key, micro_batch, bytes: &[u8]| {
            let choices = RunChoices { micro_batch, ..RunChoices::default() };
            Session::new(&mut Undisturbed, key, choices, Some(bytes)).err()
        };
        assert_eq!(open([7; 32], 0, &kept), None);
        assert_eq!(open([8; 32], 0, &kept), Some(CheckpointError::Other));
        assert_eq!(open([7; 32], 16, &kept), Some(CheckpointError::Other));
        assert!(matches!(open([7; 32], 0, &kept[..kept.len() / 2]), Some(CheckpointError::Unreadable(_))));
    }

    #[test]
    fn a_checkpoint_of_smaller_parts_is_gone_on_with_and_one_of_larger_parts_or_another_snapshot_is_not() {
        let parts = |micro_batch| RunChoices { micro_batch, ..RunChoices::default() };
        let kept = |micro_batch| {
            let mut once = Once::new(100, Wish::Stop);
            assert!(train_in(&mut once, None, parts(micro_batch), &normed(), 5).is_err());
            once.kept.unwrap()
        };
        let resumed = |key, wanted, bytes: &[u8]| crate::session::resumed(bytes, key, parts(wanted)).micro_batch;
        let eight = kept(8);
        for (wanted, found) in [(0, 8), (16, 8), (8, 8), (4, 4)] {
            assert_eq!(resumed([7; 32], wanted, &eight), found, "{wanted}");
        }
        assert_eq!((resumed([8; 32], 0, &eight), resumed([7; 32], 0, &eight[..9])), (0, 0));
        assert_eq!(
            (resumed([7; 32], 4, &kept(0)), resumed([7; 32], 0, &kept(0))),
            (4, 0),
            "whole batches are the largest"
        );
    }

    fn accuracy(network: &Network) -> f32 {
        let (x, y) = quadrants(2_000);
        let mut scratch = Scratch::default();
        let right = x.chunks_exact(2).zip(y.chunks_exact(2)).filter(|(x, y)| {
            network.forward(x, &mut scratch);
            (scratch.output[0] > scratch.output[1]) == (y[0] > 0.5)
        });
        right.count() as f32 / 2_000.0
    }

    #[test]
    fn training_learns_what_a_linear_map_cannot_with_every_kind_of_layer() {
        assert!(accuracy(&trained(&Spec::default(), 1)) > 0.95);
        let layers = vec![
            Layer::Linear { outputs: 32 },
            Layer::BatchNorm,
            Layer::Gelu,
            Layer::Dropout { rate: 0.1 },
            Layer::Linear { outputs: 16 },
            Layer::LayerNorm,
            Layer::Tanh,
        ];
        let found = accuracy(&trained(&Spec { cut: 3, layers, reconstruct: false }, 1));
        assert!(found > 0.93, "accuracy {found}");
    }

    #[test]
    fn same_rows_and_seed_give_the_same_bits_and_another_seed_does_not() {
        assert_eq!(trained(&Spec::default(), 5), trained(&Spec::default(), 5));
        assert_ne!(trained(&Spec::default(), 5), trained(&Spec::default(), 6));
    }
}
