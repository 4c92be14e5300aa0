//! What a baseline gives the joint watch: a projection, a tree on rows the projection never saw, and what those rows are worth.
use serde::{Deserialize, Serialize};

use super::{BASELINE_ROWS_MAX, BASELINE_ROWS_MIN, JointSettings};
use crate::decide::drift::newma::{Newma, NewmaSettings};
use crate::decide::drift::principal::{COMPONENTS_MAX, Principal, PrincipalError, WIDTH_MAX};
use crate::decide::drift::qt_ewma::QtEwma;
use crate::decide::drift::qt_thresholds::{REFERENCE_ROWS_MIN, RUN_LENGTH_MIN, Thresholds};
use crate::decide::drift::quant_tree::{QtError, QtSettings, QuantTree};
use crate::decide::drift::seeded::Draws;
use crate::decide::drift::thinning;

/// Rows in a row of the baseline that go to the components, then three times as many to the tree: a stretch, so that rows which
/// follow each other are rarely parted.
const STRETCH_ROWS: usize = 32;
/// Every so many stretches one goes to the components.
const STRETCHES: usize = 4;
/// Ties of a component are broken by noise of this share of its deviation, alike in the baseline and in new rows.
const TIE_SHARE: f32 = 1e-4;
/// Why there is no verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Silent {
    /// The baseline is too small.
    #[error("the baseline has {rows} rows of the {needed} that are needed; rebaseline with more")]
    FewRows {
        /// Rows of the baseline.
        rows: u64,
        /// Rows needed.
        needed: u64,
    },
    /// The baseline's rows follow each other so closely that they are worth too few.
    #[error(
        "the baseline's rows follow each other: they are worth {independent} independent ones of the {needed} that are needed; \
         rebaseline over a longer time, or hand in rows without their season"
    )]
    FewIndependentRows {
        /// Independent rows they are worth.
        independent: u64,
        /// Independent rows needed.
        needed: u64,
    },
    /// Rows of no width, or too wide.
    #[error("rows of {width} values cannot be watched together; 1 to {WIDTH_MAX} can")]
    Width {
        /// Values per row.
        width: u64,
    },
    /// The baseline is constant.
    #[error("nothing in the baseline varies")]
    Constant,
    /// Not enough rows to know how closely they follow each other.
    #[error("waits for {} rows to know how closely they follow each other", thinning::WARM_UP_ROWS)]
    WarmUp,
    /// Rows follow each other too closely at every distance the run length allows.
    #[error(
        "rows follow each other too closely to be tested; hand in rows without their season, or allow a longer run length"
    )]
    Correlated,
}

/// What a baseline gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Reference {
    pub(super) principal: Principal,
    pub(super) test: QtEwma,
    pub(super) newma: Option<Newma>,
    pub(super) rows: u64,
    pub(super) independent_rows: f64,
}

impl Reference {
    /// Splits the newest of `rows` `[n, width]` into those for the components and those for the tree, and grows both.
    pub(super) fn new(settings: &JointSettings, rows: &[f32], width: usize) -> Result<Self, Silent> {
        if !(1..=WIDTH_MAX).contains(&width) {
            return Err(Silent::Width { width: width as u64 });
        }
        let given = rows.len() / width;
        let few = |rows: usize| Silent::FewRows { rows: rows as u64, needed: BASELINE_ROWS_MIN as u64 };
        if given < BASELINE_ROWS_MIN {
            return Err(few(given));
        }
        let newest = &rows[(given - given.min(BASELINE_ROWS_MAX)) * width..given * width];
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for (place, stretch) in newest.chunks(STRETCH_ROWS * width).enumerate() {
            if place % STRETCHES == 0 { first.extend_from_slice(stretch) } else { second.extend_from_slice(stretch) }
        }
        let components = (settings.components as usize).clamp(1, COMPONENTS_MAX);
        let principal = Principal::new(&first, width, components).map_err(|error| match error {
            PrincipalError::Shape { .. } => Silent::Width { width: width as u64 },
            PrincipalError::Constant { .. } => Silent::Constant,
        })?;
        let components = principal.components();
        let mut points = Vec::new();
        for (row, place) in second.chunks_exact(width).zip(0_u64..) {
            let (mut point, missing) = principal.project(row);
            if 2 * missing <= width {
                untie(&mut point[..components], principal.variances(), u64::MAX - place);
                points.extend_from_slice(&point[..components]);
            }
        }
        let rows = points.len() / components;
        if (rows as f64) < REFERENCE_ROWS_MIN {
            return Err(few(rows + first.len() / width));
        }
        let independent_rows = rows as f64 / thinning::inflation(&points, components);
        if independent_rows < REFERENCE_ROWS_MIN {
            let needed = whole(REFERENCE_ROWS_MIN);
            return Err(Silent::FewIndependentRows { independent: whole(independent_rows), needed });
        }
        let refused = |_: QtError| few(rows);
        let tree = QuantTree::grow(QtSettings::default(), components, &points).map_err(refused)?;
        let thresholds = Thresholds::promised(independent_rows, RUN_LENGTH_MIN);
        let test = QtEwma::new(tree, QtSettings::default().weight, thresholds).map_err(refused)?;
        let newma = settings.newma.then(|| Newma::new(NewmaSettings::default(), components, &points).ok()).flatten();
        Ok(Self { principal, test, newma, rows: rows as u64, independent_rows })
    }
}

/// Breaks ties by noise from the row's number.
pub(super) fn untie(point: &mut [f32], variances: &[f32], row: u64) {
    let mut draws = Draws::new(row.wrapping_mul(0x2545_f491_4f6c_dd1d));
    for (x, variance) in point.iter_mut().zip(variances) {
        #[expect(clippy::cast_possible_truncation, reason = "noise needs no precision")]
        let noise = draws.uniform() as f32;
        *x += noise * TIE_SHARE * variance.sqrt();
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive count")]
pub(super) fn whole(x: f64) -> u64 {
    x as u64
}
