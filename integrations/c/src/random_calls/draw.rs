//! How a description is drawn: most of it as a caller would have it, and here and there a number that is
//! none.

use dpo_kernels::cpu::lm_head::LmHeadWorkspace;
use dpo_kernels::loss::{ALL, Divergence, Kind, LossInfo, Normalizer};
use dpo_kernels::{
    Batch, DType, IGNORE_INDEX, LabelAlignment, LabelType, PairLoss, Pairs, Sequences, Transform,
    WantedGradients,
};

use super::description::{Description, Gradient, Head, HeadWorkspace, Loss, Place, Tensors, Term};
use super::random::Random;
use crate::calls::{LmHead, Stage};

/// Outputs that may be left out.
pub const OPTIONAL: [&str; 11] = [
    "scored",
    "token_logps",
    "logsumexp",
    "logsumexp_residual",
    "token_weights",
    "entropy",
    "correct",
    "mean_logit",
    "sum_p2",
    "sequence_log_weights",
    "mean",
];

/// Those of token metrics.
pub const METRICS: &[&str] = OPTIONAL.split_at(5).1;

/// The functions of the header that compute.
const STAGES: [Stage; 9] = [
    Stage::Logps,
    Stage::PairLoss,
    Stage::Forward,
    Stage::Factored,
    Stage::Backward,
    Stage::LmHead(LmHead::Plan),
    Stage::LmHead(LmHead::Logps),
    Stage::LmHead(LmHead::Forward),
    Stage::LmHead(LmHead::Backward),
];

/// One in so many batches is not tiny.
const LARGE: usize = 500;

/// A source of what a description has.
struct Draw<'a> {
    random: &'a mut Random,
    /// One in so many values is not as it should be; none where it is 0.
    wild: usize,
}

/// Draws a description.
pub fn draw(random: &mut Random) -> Description {
    let wild = random.pick(&[0, 0, 0, 50, 12]);
    Draw { random, wild }.description()
}

impl Draw<'_> {
    fn one_in(&mut self, count: usize) -> bool {
        self.random.below(count) == 0
    }

    fn is_wild(&mut self) -> bool {
        self.wild > 0 && self.one_in(self.wild)
    }

    /// A number from `from` to `to`.
    fn between(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * 0.5 * (1.0 + f64::from(self.random.symmetric()))
    }

    /// A number from `from` to `to`, or one of those that ranges end at.
    fn number(&mut self, from: f64, to: f64) -> f64 {
        if !self.is_wild() {
            return self.between(from, to);
        }
        let wild = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, -1.0, 1e-300, 1e300, 0.5, 1.0];
        self.random.pick(&wild)
    }

    /// The same for what is handed over as an f32.
    fn float(&mut self, from: f64, to: f64) -> f32 {
        self.number(from, to) as f32
    }

    fn floats(&mut self, count: usize, from: f64, to: f64) -> Vec<f32> {
        (0..count).map(|_| self.float(from, to)).collect()
    }

    fn maybe<T>(&mut self, count: usize, draw: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.one_in(count).then(|| draw(self))
    }

    /// Whether what is of use is there, and what is of none is not; or not so.
    fn useful(&mut self, of_use: bool) -> bool {
        if self.is_wild() { !of_use } else { of_use }
    }

    fn description(mut self) -> Description {
        let stage = self.random.pick(&STAGES);
        let large = self.one_in(LARGE);
        let layout = self.random.below(5);
        // A loss needs pairs, or desirable sequences.
        let pairs = if stage.has_loss() && layout == 3 && !self.is_wild() { 0 } else { layout };
        let loss = self.loss(pairs == 4);
        let batch = self.batch(stage, large, pairs);
        let (sequences, rows) = counts_of(&batch);
        let label_type = self.random.pick(&[LabelType::I32, LabelType::I64]);
        let labels = (0..rows).map(|_| self.label(&batch, label_type)).collect();
        let made = loss.make().ok();
        let pair_count = match &batch.pairs {
            Pairs::None => 0,
            Pairs::Concatenated | Pairs::Interleaved => sequences / 2,
            Pairs::Indexed { chosen, .. } => chosen.len(),
            Pairs::Unpaired { .. } => sequences,
        };
        let inputs = self.inputs(made.as_ref(), sequences, pair_count);
        let scores = stage != Stage::PairLoss || !self.one_in(3) || made.is_some_and(|loss| divides(&loss));
        let scored = self.useful(scores).then(|| self.counts(sequences, 6));
        let dtype = self.random.pick(&[DType::F32, DType::F16, DType::BF16]);
        Description {
            stage,
            dtype,
            label_type,
            logits: if stage.is_behind_head() { vec![] } else { self.logits(&batch, rows) },
            labels,
            loss,
            inputs,
            logps: self.floats(sequences, -60.0, 0.0),
            scored,
            wanted: self.wanted(stage),
            gradient: self.gradient(&batch, sequences, rows),
            head: stage.is_behind_head().then(|| self.head(stage, dtype, &batch, rows, pair_count)),
            batch,
        }
    }

    fn counts(&mut self, count: usize, bound: usize) -> Vec<u32> {
        (0..count).map(|_| self.random.below(bound) as u32).collect()
    }

    fn batch(&mut self, stage: Stage, large: bool, pairs: usize) -> Batch<Vec<i32>> {
        let vocab = 1 + self.random.below(if large { 3000 } else { 12 });
        let half = 1 + self.random.below(if large { 3 } else { 4 });
        // What has no pairs by two may have any number of sequences.
        let is_odd = usize::from(pairs > 1 && self.one_in(2));
        let sequences = 2 * half - is_odd + usize::from(self.is_wild());
        let longest = 1 + self.random.below(if large { 8 } else { 5 });
        let packed = self.one_in(2);
        let lens = (0..sequences).map(|_| if packed { self.random.below(longest + 1) } else { longest });
        let mut cu_seqlens = vec![0i32];
        for len in lens.collect::<Vec<_>>() {
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + len as i32);
        }
        let rows = cu_seqlens[sequences] as usize;
        if self.is_wild() {
            let place = self.random.below(cu_seqlens.len());
            cu_seqlens[place] = self.index(rows + 1);
        }
        let pairs = self.pairs(pairs, sequences);
        let is_paired_once = matches!(pairs, Pairs::Concatenated | Pairs::Interleaved);
        let has_ld_alpha = is_paired_once && self.one_in(5);
        let has_transform = self.one_in(3);
        let transform = if self.useful(has_transform) {
            Transform {
                scale: self.maybe(2, |draw| draw.float(0.05, 4.0)).unwrap_or(1.0),
                softcap: self.maybe(2, |draw| draw.float(0.5, 50.0)),
                valid_vocab: self
                    .maybe(2, |draw| draw.random.below(vocab + 1).max(usize::from(!draw.is_wild()))),
            }
        } else {
            Transform::default()
        };
        // Logits that are made of hidden states have no gaps.
        let gap = if stage.is_behind_head() { 0 } else { self.random.pick(&[0, 0, 1, 3]) };
        Batch {
            vocab,
            // Where there is one row, the next would start anywhere.
            row_stride: if rows == 1 && !stage.is_behind_head() && self.one_in(4) {
                1 << 40
            } else {
                vocab + gap - usize::from(self.is_wild())
            },
            sequences: if packed {
                Sequences::Packed { cu_seqlens, rows }
            } else {
                Sequences::Padded { count: sequences, len: longest }
            },
            pairs,
            label_alignment: self.random.pick(&[LabelAlignment::Aligned, LabelAlignment::NextToken]),
            ignore_index: self.random.pick(&[IGNORE_INDEX, IGNORE_INDEX, -1, 0, i64::MIN, i64::MAX]),
            transform,
            ld_alpha: if self.useful(has_ld_alpha) { self.float(0.0, 1.0) } else { 1.0 },
        }
    }

    /// An index below `bound`, or one that is out of any range.
    fn index(&mut self, bound: usize) -> i32 {
        if self.is_wild() {
            return self.random.pick(&[-1, i32::MIN, i32::MAX, bound as i32]);
        }
        self.random.below(bound) as i32
    }

    fn pairs(&mut self, layout: usize, sequences: usize) -> Pairs<Vec<i32>> {
        match layout {
            0 => Pairs::Concatenated,
            1 => Pairs::Interleaved,
            2 if sequences > 1 => {
                let chosen: Vec<i32> = (0..1 + self.random.below(5)).map(|_| self.index(sequences)).collect();
                let other = |chosen: &i32| {
                    let away = 1 + self.random.below(sequences - 1);
                    let is_itself = self.is_wild();
                    if is_itself {
                        *chosen
                    } else {
                        ((chosen.unsigned_abs() as usize + away) % sequences) as i32
                    }
                };
                let rejected = chosen.iter().map(other).collect();
                Pairs::Indexed { chosen, rejected }
            }
            3 => Pairs::None,
            _ => {
                Pairs::Unpaired { desirable: (0..sequences).map(|_| self.random.pick(&[0, 1, -7])).collect() }
            }
        }
    }

    fn label(&mut self, batch: &Batch<Vec<i32>>, label_type: LabelType) -> i64 {
        let columns = batch.transform.valid_vocab.unwrap_or(batch.vocab).max(1);
        let label = match self.random.below(10) {
            0..7 => self.random.below(columns) as i64,
            7 | 8 => batch.ignore_index,
            _ if self.is_wild() => self.random.pick(&[-1, columns as i64, i64::MIN, i64::MAX, 1 << 32]),
            _ => 0,
        };
        // A label that its type cannot hold is another one.
        if label_type == LabelType::I32 { i64::from(label as i32) } else { label }
    }

    fn logits(&mut self, batch: &Batch<Vec<i32>>, rows: usize) -> Vec<f32> {
        let Some(before) = rows.checked_sub(1) else { return vec![] };
        let len = before.saturating_mul(batch.row_stride) + batch.vocab;
        let (spread, center) =
            self.random.pick(&[(0.1, 0.0), (3.0, 0.0), (3.0, 200.0), (100.0, 0.0), (1e4, 0.0)]);
        let number = |_| {
            if self.is_wild() { self.float(-1.0, 1.0) } else { center + spread * self.random.symmetric() }
        };
        (0..len).map(number).collect()
    }

    fn head(
        &mut self,
        stage: Stage,
        dtype: DType,
        batch: &Batch<Vec<i32>>,
        rows: usize,
        pairs: usize,
    ) -> Head {
        let hidden_size = 1 + self.random.below(9);
        let size = self.random.pick(&[0.1, 1.0, 10.0, 1e3]);
        let hidden = self.floats(rows * hidden_size, -size, size);
        let weight = self.floats(batch.vocab * hidden_size, -1.0, 1.0);
        let bias = self.maybe(2, |draw| draw.floats(batch.vocab, -1.0, 1.0));
        // Of some rows, with or without some bytes more, or of too few.
        let columns = batch.transform.valid_vocab.unwrap_or(batch.vocab).min(batch.vocab);
        let of_row = LmHeadWorkspace::bytes_per_row(columns, hidden_size);
        let in_use = (1 + self.random.below(rows + 2)) * of_row + self.random.below(of_row);
        let budget = if self.is_wild() { self.random.pick(&[0, of_row - 1, usize::MAX]) } else { in_use };
        let mut is_wanted = || self.random.below(3) > 0;
        let wanted = WantedGradients { hidden: is_wanted(), weight: is_wanted(), bias: is_wanted() };
        let needs_struct = stage == Stage::LmHead(LmHead::Backward);
        let gradients = (needs_struct || !self.one_in(4)).then_some(wanted);
        let wants = gradients.is_some_and(|wanted| wanted != WantedGradients::default());
        let of_use = wants || self.one_in(2);
        let has_loss = self.useful(of_use);
        Head {
            hidden_size,
            hidden,
            weight,
            bias,
            budget_bytes: (!self.one_in(8)).then_some(budget),
            has_loss: stage != Stage::LmHead(LmHead::Plan) || has_loss,
            gradients,
            start: self.random.pick(&[0.0, 0.25, -3.0]),
            shares_workspace: self.one_in(2),
            workspace: self.head_workspace(dtype, hidden_size, batch, rows, pairs),
        }
    }

    /// For the batch, or larger ones too; or for less, or another head.
    fn head_workspace(
        &mut self,
        dtype: DType,
        hidden_size: usize,
        batch: &Batch<Vec<i32>>,
        rows: usize,
        pairs: usize,
    ) -> HeadWorkspace {
        let mut room = |count: usize| match self.is_wild() {
            false => count + self.random.pick(&[0, 1, 1000]),
            true => self.random.pick(&[count.saturating_sub(1), 0, 1 << 31, usize::MAX]),
        };
        let (sequences, _) = counts_of(batch);
        let (sequences, rows, pairs, vocab) =
            (room(sequences), room(rows.max(1)), room(pairs), room(batch.vocab));
        let others = [DType::F32, DType::F16, DType::BF16];
        let logits_dtype =
            if self.is_wild() { self.random.pick(&others) } else { self.random.pick(&[dtype, DType::F32]) };
        // Of some rows, with or without some bytes more, or of too few.
        let columns = vocab.checked_next_multiple_of(8).unwrap_or(vocab);
        let gradient = if logits_dtype == dtype { 0 } else { dtype.size() };
        let logits = columns.saturating_mul(logits_dtype.size() + gradient);
        let of_row = logits.saturating_add(hidden_size * (dtype.size() + 4));
        let of_rows = (1 + self.random.below(12)).saturating_mul(of_row);
        let budget = if self.is_wild() { self.random.pick(&[0, of_row - 1, usize::MAX]) } else { of_rows };
        HeadWorkspace {
            sequences,
            rows,
            pairs,
            vocab,
            hidden_size: hidden_size + usize::from(self.is_wild()),
            dtype: if self.is_wild() { self.random.pick(&others) } else { dtype },
            logits_dtype: (logits_dtype != dtype || self.one_in(4)).then_some(logits_dtype),
            budget_bytes: (!self.one_in(8)).then_some(budget),
            product_bytes: self.maybe(2, |draw| match draw.is_wild() {
                false => draw.random.below(1 << 20),
                true => usize::MAX,
            }),
        }
    }

    fn wanted(&mut self, stage: Stage) -> Vec<&'static str> {
        let none_of = if stage == Stage::Factored && !self.is_wild() { METRICS } else { &[] };
        let share = 1 + self.random.below(4);
        OPTIONAL.into_iter().filter(|name| !none_of.contains(name) && self.one_in(share)).collect()
    }

    fn loss(&mut self, unpaired: bool) -> Loss {
        let beta = self.number(0.01, 5.0);
        let count = if self.one_in(2) { 0 } else { self.random.pick(&[1, 1, 1, 1, 2, 3, 4]) };
        let terms: Vec<Term> =
            (0..count + usize::from(self.is_wild())).map(|_| self.term(unpaired)).collect();
        let mut loss = Loss {
            beta,
            terms,
            divergence: Divergence::ReverseKl,
            normalizer: Normalizer::Pairs,
            length_normalized: self.one_in(4),
            wpo_weights: false,
            reference_free: self.one_in(4),
            label_smoothing: None,
            gamma: None,
            baseline: None,
        };
        if loss.is_beta_of_terms() && !self.is_wild() {
            loss.beta = 0.0;
        }
        let made = loss.make().ok();
        let of_any = |property: fn(&Kind) -> bool| {
            made.is_some_and(|loss| loss.terms().iter().any(|term| property(term.kind)))
        };
        let of_all = |property: fn(&Kind) -> bool| {
            made.is_some_and(|loss| loss.terms().iter().all(|term| property(term.kind)))
        };
        let has = [
            of_any(Kind::takes_label_smoothing) && self.one_in(2),
            of_any(Kind::is_of_margin) && self.one_in(3),
            of_any(Kind::needs_baseline) && self.one_in(2),
            of_all(Kind::is_of_margin) && self.one_in(3),
            !of_any(Kind::couples_pairs) && self.one_in(5),
        ];
        let [smooths, has_gamma, has_baseline, diverges, wpo] = has.map(|has| self.useful(has));
        loss.label_smoothing = smooths.then(|| self.number(0.01, 0.49));
        loss.gamma = has_gamma.then(|| self.number(-2.0, 2.0));
        loss.baseline = has_baseline.then(|| self.number(0.0, 3.0));
        if diverges {
            let alpha = Divergence::Alpha(self.number(-1.0, 3.0));
            loss.divergence = self.random.pick(&[Divergence::ForwardKl, Divergence::JensenShannon, alpha]);
        }
        loss.wpo_weights = wpo;
        let takes_one = made.is_some_and(|loss| loss.takes_normalizer());
        if self.useful(takes_one) {
            let number = Normalizer::Number(self.number(0.5, 9.0));
            loss.normalizer =
                self.random.pick(&[Normalizer::Pairs, Normalizer::Pairs, Normalizer::Tokens, number]);
        }
        loss
    }

    fn term(&mut self, unpaired: bool) -> Term {
        let is_sided = |info: &LossInfo| {
            info.make(1.0, &[]).is_ok_and(|loss| loss.terms().iter().all(|term| term.kind.is_sided()))
        };
        let fits = |info: &&LossInfo| !unpaired || is_sided(info);
        let known: Vec<&LossInfo> = ALL.iter().filter(fits).collect();
        let info = self.random.pick(&known);
        let names: Vec<&str> = info.names().collect();
        let unknown: [&[u8]; 6] = [b"", b"ppo", b"Sigmoid", b"sigmoid ", b"\xff\xfe", &[b'x'; 5000]];
        let name =
            if self.is_wild() { self.random.pick(&unknown) } else { self.random.pick(&names).as_bytes() };
        let has = [0, 1].map(|place| self.one_in(3) && place < info.parameters.len());
        let has_beta = self.one_in(3) && info.reads_beta();
        Term {
            name: name.to_vec(),
            weight: self.maybe(2, |draw| draw.number(0.1, 2.0)),
            beta: self.useful(has_beta).then(|| self.number(0.01, 5.0)),
            parameters: has.map(|has| self.useful(has).then(|| self.number(0.1, 3.0))),
        }
    }

    fn inputs(&mut self, loss: Option<&PairLoss>, sequences: usize, pairs: usize) -> Tensors {
        let of_any = |property: fn(&Kind) -> bool| {
            loss.is_some_and(|loss| loss.terms().iter().any(|term| property(term.kind)))
        };
        let is_free = loss.is_some_and(PairLoss::is_reference_free);
        let needs_reference = loss.is_some_and(PairLoss::needs_reference);
        let estimates = loss.is_some_and(PairLoss::estimates_baseline);
        let wpo = loss.is_some_and(PairLoss::has_wpo_weights);
        let has_reference = needs_reference || (!is_free && self.one_in(2));
        let ref_logps = self.useful(has_reference).then(|| self.floats(sequences, -60.0, 0.0));
        let mut tensors = Tensors { ref_logps, ..Tensors::default() };
        if self.useful(estimates) {
            let count = self.random.below(5) + usize::from(!self.is_wild());
            tensors.kl_logps = Some(self.floats(count, -40.0, 0.0));
            tensors.kl_ref_logps = self.useful(!is_free).then(|| self.floats(count, -40.0, 0.0));
        }
        if !wpo && self.one_in(2) {
            return tensors;
        }
        let (sorts, all) = (of_any(Kind::couples_pairs), self.one_in(4));
        let mut there = |of_use: bool| {
            let is_drawn = all || self.one_in(3);
            self.useful(of_use && is_drawn)
        };
        let one_beta = loss.is_some_and(PairLoss::has_one_beta);
        let has_beta = there(!sorts && one_beta && of_any(Kind::reads_beta));
        let has_gamma = there(of_any(Kind::is_of_margin));
        let has_weight = there(!sorts);
        let smooths = there(!sorts && of_any(Kind::takes_label_smoothing));
        let has_log_weights = there(!sorts) || (wpo && !self.is_wild());
        let has_chosen_tokens = {
            let is_drawn = all || self.one_in(3);
            self.useful(is_drawn && of_any(Kind::counts_chosen_tokens))
        };
        tensors.beta = has_beta.then(|| self.floats(pairs, 0.01, 3.0));
        tensors.gamma = has_gamma.then(|| self.floats(pairs, -2.0, 2.0));
        tensors.weight = has_weight
            .then(|| (0..pairs).map(|_| if self.one_in(4) { 0.0 } else { self.float(0.0, 2.0) }).collect());
        tensors.label_smoothing = smooths.then(|| self.floats(pairs, 0.01, 0.49));
        tensors.sequence_log_weights = has_log_weights.then(|| self.floats(sequences, -3.0, 1.0));
        tensors.lengths = self.maybe(3, |draw| draw.counts(sequences, 5));
        let normalized = loss.is_some_and(PairLoss::takes_normalizer) && self.one_in(3);
        tensors.normalizer = self.useful(normalized).then(|| self.float(0.5, 20.0));
        tensors.chosen_tokens = has_chosen_tokens.then(|| self.float(1.0, 20.0));
        tensors
    }

    fn gradient(&mut self, batch: &Batch<Vec<i32>>, sequences: usize, rows: usize) -> Gradient {
        let needs_token_coef = batch.ld_alpha != 1.0;
        let has_token_coef = needs_token_coef || self.one_in(3);
        let entropy = self.maybe(4, |draw| [draw.floats(rows, -2.0, 2.0), draw.floats(rows, 0.0, 6.0)]);
        // The reference does not know what is skipped for two coefficients.
        let has_threshold = entropy.is_none();
        let elements = (rows.max(1) - 1).saturating_mul(batch.row_stride) + batch.vocab;
        let overlaps = self.is_wild() && elements > 1;
        let into = 1 + self.random.below(elements.max(2) - 1) as isize;
        let into = self.random.pick(&[into, -into]);
        Gradient {
            residual: !self.one_in(4),
            coef: self.maybe(2, |draw| draw.floats(sequences, -2.0, 2.0)),
            token_coef: self.useful(has_token_coef).then(|| self.floats(rows, -2.0, 2.0)),
            entropy,
            upstream: self.maybe(3, |draw| draw.float(-3.0, 3.0)),
            upstream_scale: self.maybe(3, |draw| draw.float(-3.0, 3.0)),
            threshold: self.maybe(3, |draw| draw.float(0.0, 1.0)).filter(|_| has_threshold),
            nonfinite_row: self.maybe(2, |draw| draw.random.pick(&[u32::MAX, 0, 1, 2, 3])),
            place: if overlaps {
                Place::Overlapping(into)
            } else {
                self.random.pick(&[Place::Apart, Place::Logits, Place::Behind])
            },
        }
    }
}

/// Whether the loss asks for numbers of scored rows.
fn divides(loss: &PairLoss) -> bool {
    let of_term = loss.terms().iter().any(|term| term.length_normalized || term.kind.needs_lengths());
    let counts = loss.terms().iter().any(|term| term.kind.counts_chosen_tokens());
    loss.length_normalized() || of_term || counts || loss.normalizer() == Normalizer::Tokens
}

/// How many sequences and rows there are, whatever the entries of cu_seqlens say.
fn counts_of(batch: &Batch<Vec<i32>>) -> (usize, usize) {
    match &batch.sequences {
        Sequences::Padded { count, len } => (*count, count * len),
        Sequences::Packed { cu_seqlens, rows } => (cu_seqlens.len() - 1, *rows),
    }
}
