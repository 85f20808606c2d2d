//! A trained forecast: a small network that corrects the mixture's level, and the file it comes in.
//!
//! It sees how the experts differ from the mixture's level in units of the link's own scatter, so one
//! model serves links of all lengths, and it says a correction in the same unit, never more than
//! [`REACH`] of it. Whether what it says is used is the gate's decision, link by link.
//!
//! The file is text, so that what was learnt from what can be read and compared:
//!
//! ```text
//! thalweg forecast model 1
//! data: ...                      provenance: at least data, licence, date, split, figures
//! layer 8 10                     outputs, inputs; then one line per output: weights, then the bias
//! ...
//! layer 1 8
//! ...
//! end 1f2e3d4c5b6a7988           FNV-1a (64 bits) of everything before this line
//! ```

use std::fmt::Write as _;

use super::forecast::EXPERTS;

/// What the network is given: each expert but the last level and the level itself, how far the
/// newest slots lie from it, how old the level is, how noisy the link.
pub const INPUTS: usize = EXPERTS.len() + 4;
/// A correction is at most so many units.
pub const REACH: f64 = 3.0;

/// The model that is part of the program.
const SHIPPED: &str = include_str!("../../models/forecast.model");

const HEAD: &str = "thalweg forecast model 1";
/// What a model's origin must tell.
const ORIGIN: [&str; 5] = ["data", "licence", "date", "split", "figures"];
/// Units of the hidden layer at most.
const HIDDEN: usize = 64;
/// A weight beyond this was never trained.
const WEIGHT_LIMIT: f64 = 1e3;
/// A file longer than this is none of ours.
pub const FILE_LIMIT: usize = 64 * 1024;

/// A trained correction.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    origin: Vec<(String, String)>,
    /// Weights of each hidden unit, then its bias.
    hidden: Vec<[f64; INPUTS + 1]>,
    /// Weight of each hidden unit, then the bias.
    out: Vec<f64>,
}

/// Why a file is no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// It does not begin as one.
    #[error("is no forecast model: it does not begin with \"{HEAD}\"")]
    Foreign,
    /// It is longer than any.
    #[error("is longer than {FILE_LIMIT} bytes, as no forecast model is")]
    TooLong,
    /// Its end is missing or does not match.
    #[error("is truncated or altered: its last line is not the check of what stands before it")]
    Torn,
    /// A line cannot be.
    #[error("line {line}: {what}")]
    Line {
        /// Counted from one.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// Its origin is not told.
    #[error("does not tell its {0}")]
    Origin(&'static str),
}

impl Model {
    /// A model of these weights. `hidden`: for each unit its weights and its bias; `out`: the weight of each
    /// unit and the bias.
    ///
    /// # Errors
    /// Weights that are not finite or out of range, an origin that lacks something.
    pub fn new(
        origin: Vec<(String, String)>,
        hidden: Vec<[f64; INPUTS + 1]>,
        out: Vec<f64>,
    ) -> Result<Self, ModelError> {
        let model = Self { origin, hidden, out };
        Self::parse(&model.write())
    }

    /// The model that is part of the program.
    pub fn shipped() -> Self {
        Self::parse(SHIPPED).expect("the shipped model is whole: a test reads it")
    }

    /// Reads the text of a model file.
    ///
    /// # Errors
    /// Anything but a whole model.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        if text.len() > FILE_LIMIT {
            return Err(ModelError::TooLong);
        }
        // The whole line: another version's number may begin with ours.
        if text.lines().next() != Some(HEAD) {
            return Err(ModelError::Foreign);
        }
        let body = text.trim_end();
        let at = body.rfind('\n').ok_or(ModelError::Torn)? + 1;
        let check = body[at..].strip_prefix("end ").ok_or(ModelError::Torn)?;
        if u64::from_str_radix(check, 16) != Ok(fnv(&body.as_bytes()[..at])) {
            return Err(ModelError::Torn);
        }
        let mut lines = body[..at].lines().enumerate().map(|(at, line)| (at + 1, line)).skip(1);
        let mut origin = Vec::new();
        let (mut head, mut last) = (None, 1);
        for (line, text) in lines.by_ref() {
            last = line;
            match text.split_once(": ") {
                Some((key, value)) => origin.push((key.to_string(), value.to_string())),
                None => {
                    head = Some((line, text));
                    break;
                }
            }
        }
        for key in ORIGIN {
            let told = |(k, v): &(String, String)| k == key && !v.trim().is_empty();
            if !origin.iter().any(told) {
                return Err(ModelError::Origin(key));
            }
        }
        let wrong = |line, what: &str| ModelError::Line { line, what: what.into() };
        let (line, head) = head.ok_or_else(|| wrong(last, "no layer follows"))?;
        let units = match shape(head) {
            Some((units @ 1..=HIDDEN, INPUTS)) => units,
            _ => {
                let what = format!("{head:?} where a layer of {INPUTS} inputs is expected");
                return Err(ModelError::Line { line, what });
            }
        };
        let mut row = |count: usize| {
            let (line, text) = lines.next().ok_or_else(|| wrong(line, "the layer is not whole"))?;
            let cells = text.split(' ').map(str::parse::<f64>).collect::<Result<Vec<_>, _>>();
            let fits = |v: &Vec<f64>| v.len() == count && v.iter().all(|w| w.abs() <= WEIGHT_LIMIT);
            let what = format!("not {count} weights within {WEIGHT_LIMIT}");
            cells.ok().filter(fits).ok_or(ModelError::Line { line, what })
        };
        let mut hidden = Vec::with_capacity(units);
        for _ in 0..units {
            let mut unit = [0.0; INPUTS + 1];
            unit.copy_from_slice(&row(INPUTS + 1)?);
            hidden.push(unit);
        }
        let next = lines.next().filter(|(_, text)| shape(text) == Some((1, units)));
        let (line, _) = next.ok_or_else(|| wrong(line, "no layer of one output follows"))?;
        let (at, text) = lines.next().ok_or_else(|| wrong(line, "the layer is not whole"))?;
        let cells = text.split(' ').map(str::parse::<f64>).collect::<Result<Vec<_>, _>>();
        let fits = |v: &Vec<f64>| v.len() == units + 1 && v.iter().all(|w| w.abs() <= WEIGHT_LIMIT);
        let out =
            cells.ok().filter(fits).ok_or_else(|| wrong(at, "not the weights of the output"))?;
        if let Some((line, _)) = lines.next() {
            return Err(wrong(line, "nothing is expected here"));
        }
        Ok(Self { origin, hidden, out })
    }

    /// The text of the model's file.
    pub fn write(&self) -> String {
        let mut text = format!("{HEAD}\n");
        for (key, value) in &self.origin {
            let _ = writeln!(text, "{key}: {value}");
        }
        let row = |weights: &[f64]| {
            let cells: Vec<String> = weights.iter().map(|w| format!("{w:.6}")).collect();
            cells.join(" ")
        };
        let _ = writeln!(text, "layer {} {INPUTS}", self.hidden.len());
        for unit in &self.hidden {
            let _ = writeln!(text, "{}", row(unit));
        }
        let _ = writeln!(text, "layer 1 {}\n{}", self.hidden.len(), row(&self.out));
        let _ = writeln!(text, "end {:016x}", fnv(text.as_bytes()));
        text
    }

    /// Where it comes from: data, licence, date, split, figures.
    pub fn origin(&self) -> &[(String, String)] {
        &self.origin
    }

    /// The correction, in units of the link's scatter.
    pub fn correct(&self, inputs: &[f64; INPUTS]) -> f64 {
        let sum = |weights: &[f64], inputs: &mut dyn Iterator<Item = f64>| {
            let bias = weights.last().copied().unwrap_or(0.0);
            weights.iter().zip(inputs).map(|(w, x)| w * x).sum::<f64>() + bias
        };
        let mut units =
            self.hidden.iter().map(|unit| sum(unit, &mut inputs.iter().copied()).tanh());
        let said = sum(&self.out, &mut units);
        if said.is_finite() { said.clamp(-REACH, REACH) } else { 0.0 }
    }
}

fn shape(line: &str) -> Option<(usize, usize)> {
    let (outputs, inputs) = line.strip_prefix("layer ")?.split_once(' ')?;
    Some((outputs.parse().ok()?, inputs.parse().ok()?))
}

/// FNV-1a with 64 bits: finds what was cut off or mistyped, and is no defence against an adversary.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Dice;

    fn origin() -> Vec<(String, String)> {
        ORIGIN.iter().map(|key| (key.to_string(), "told".to_string())).collect()
    }

    fn small() -> Model {
        let mut unit = [0.0; INPUTS + 1];
        unit[0] = 2.0;
        unit[INPUTS] = 0.5;
        Model::new(origin(), vec![unit, [0.25; INPUTS + 1]], vec![1.0, -0.5, 0.125]).unwrap()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let model = small();
        assert_eq!(Model::parse(&model.write()), Ok(model.clone()));
        let mut inputs = [0.0; INPUTS];
        inputs[0] = 0.25;
        let expected = 1_f64.tanh() - 0.5 * (0.25_f64 * 1.25).tanh() + 0.125;
        assert!((model.correct(&inputs) - expected).abs() < 1e-9);
    }

    #[test]
    fn a_file_cut_anywhere_or_with_one_letter_changed_is_refused() {
        let text = small().write();
        for end in 0..text.len() - 1 {
            assert!(Model::parse(&text[..end]).is_err(), "cut at {end}");
        }
        let mut dice = Dice::new(3);
        for _ in 0..500 {
            let mut bytes = text.clone().into_bytes();
            let at = dice.below(bytes.len() as u64 - 1) as usize;
            bytes[at] = if bytes[at] == b'7' { b'8' } else { b'7' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(Model::parse(&changed).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn a_foreign_file_and_one_without_its_origin_are_told_apart() {
        assert_eq!(Model::parse("\x7fELF"), Err(ModelError::Foreign));
        assert_eq!(Model::parse(""), Err(ModelError::Foreign));
        let later = Model::shipped().write().replacen(HEAD, &format!("{HEAD}0"), 1);
        assert_eq!(Model::parse(&later), Err(ModelError::Foreign));
        let unit = [0.0; INPUTS + 1];
        let nameless = Model::new(origin()[1..].to_vec(), vec![unit], vec![1.0, 0.0]);
        assert_eq!(nameless, Err(ModelError::Origin("data")));
        let wild = Model::new(origin(), vec![unit], vec![f64::NAN, 0.0]);
        assert!(matches!(wild, Err(ModelError::Line { .. })), "{wild:?}");
        let long = format!("{HEAD}\n{}", "x".repeat(FILE_LIMIT));
        assert_eq!(Model::parse(&long), Err(ModelError::TooLong));
    }

    #[test]
    fn a_correction_is_bounded_whatever_goes_in() {
        let model = small();
        for value in [f64::NAN, f64::INFINITY, -1e300, 1e300] {
            assert!(model.correct(&[value; INPUTS]).abs() <= REACH);
        }
    }
}
