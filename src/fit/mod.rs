//! From a merged delta back to one stored term: which family, at which rank, under a tolerance or a bound.
//!
//! A [`Fitter`] looks at one layer. It knows every form that the layer could be stored in as a [`Curve`] of
//! size against error, chooses the smallest that a [`Bound`] allows, and makes the term of that choice.

mod balance;
pub mod budget;
pub mod certificate;
mod loha;
mod lokr;
mod lora;
mod rule;

use std::cell::OnceCell;
use std::str::FromStr;

use faer::Mat;

use crate::adapter::{Dims, WeightShape, lokr_split};
use crate::compute::linalg::Svd;
use crate::delta::core::Core;
use crate::delta::joint::Joint;
use crate::delta::{Delta, Factor, Hadamard, Kron, Split, Term, gram};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, Real};

pub use budget::{Bound, Curve, Point, Purpose};
pub use rule::RankRule;

/// What the output is to be stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Per layer the smallest form within the tolerance.
    Auto,
    /// The best single Kronecker product.
    Lokr,
    /// The best LoHa that alternating least squares finds.
    Loha,
    /// Low rank.
    Lora,
    /// The difference itself.
    Full,
}

impl Format {
    /// Every format with its name.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Auto, "auto"),
        (Self::Lokr, "lokr"),
        (Self::Loha, "loha"),
        (Self::Lora, "lora"),
        (Self::Full, "full"),
    ];

    /// The name, as options spell it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(format, _)| *format == self).map_or("", |(_, name)| name)
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Self::ALL.iter().find(|(_, name)| *name == s).map(|(format, _)| *format).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(_, name)| *name).collect();
            Error::option(format!("unknown format '{s}'; use one of {}", names.join(", ")))
        })
    }
}

/// How to fit.
#[derive(Clone, Debug)]
pub struct FitOptions {
    /// The family to store.
    pub format: Format,
    /// The element type to store.
    pub dtype: Dtype,
    /// LoKr's factor, where it isn't the strongest input's split.
    pub factor: Option<usize>,
    /// Scale each layer back to the norm of the true merge.
    pub match_norm: bool,
}

/// A form that a layer can be stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The only term that there is, as it is.
    Own,
    /// The best single Kronecker product; the rank is w2's.
    Lokr,
    /// w1 = `[[1]]`, w2 of low rank: holds any matrix.
    LokrUnit,
    /// Alternating least squares.
    Loha,
    /// Low rank.
    Lora,
    /// All entries.
    Full,
}

/// A form and its rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The form.
    pub form: Form,
    /// Its size and error before rounding.
    pub point: Point,
}

/// What a fit in the inputs' own family keeps of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inherited {
    /// The split of the strongest Kronecker product.
    split: Option<Split>,
    /// The largest inner rank.
    rank: usize,
    /// Whether the terms were added up entry by entry: nothing is left of the forms that they had.
    summed: bool,
}

impl Inherited {
    /// What the terms of `delta` show.
    pub fn of<T: Real>(delta: &Delta<T>) -> Self {
        let rank = |term: &Term<T>| match term {
            Term::Plain(factor) => factor.rank(),
            Term::Kron(kron) => kron.a.rank().max(kron.b.rank()),
            Term::Hadamard(hadamard) => hadamard.first.rank(),
        };
        let rank = delta.terms().iter().map(|(_, term)| rank(term)).max().unwrap_or(0);
        Self { split: lokr::strongest_split(delta), rank, summed: false }
    }

    /// The same, of terms that are added up entry by entry.
    #[must_use]
    pub fn summed(self) -> Self {
        Self { summed: true, ..self }
    }
}

/// The fits of one layer's merged delta.
pub struct Fitter<'a, T: Real> {
    joint: &'a Joint<'a, T>,
    shape: &'a WeightShape,
    options: &'a FitOptions,
    inherited: OnceCell<Inherited>,
    core: OnceCell<Core<'a, T>>,
    spectrum_estimate: OnceCell<Vec<f64>>,
    svd: OnceCell<Svd<T>>,
    nearest_kron: OnceCell<lokr::Nearest<T>>,
    nearest_loha: OnceCell<(usize, Hadamard<T>, f64)>,
}

impl<'a, T: Real> Fitter<'a, T> {
    /// For one layer.
    pub fn new(joint: &'a Joint<'a, T>, shape: &'a WeightShape, options: &'a FitOptions) -> Self {
        Self {
            joint,
            shape,
            options,
            inherited: OnceCell::new(),
            core: OnceCell::new(),
            spectrum_estimate: OnceCell::new(),
            svd: OnceCell::new(),
            nearest_kron: OnceCell::new(),
            nearest_loha: OnceCell::new(),
        }
    }

    /// With what is known of the inputs, where the delta's terms don't show it any more.
    #[must_use]
    pub fn inherit(mut self, inherited: Option<Inherited>) -> Self {
        if let Some(inherited) = inherited {
            self.inherited = OnceCell::from(inherited);
        }
        self
    }

    fn inherited(&self) -> &Inherited {
        self.inherited.get_or_init(|| Inherited::of(self.delta()))
    }

    fn delta(&self) -> &'a Delta<T> {
        self.joint.delta()
    }

    /// ‖ΔW‖
    pub fn norm(&self) -> f64 {
        self.joint.norm()
    }

    fn is_vector(&self) -> bool {
        self.shape.dims == Dims::Vector
    }

    /// The split of the Kronecker product to fit: the option's, else the strongest input's.
    fn split(&self) -> Option<Split> {
        if let Some(factor) = self.options.factor {
            let (a, c) = lokr_split(self.shape.rows, self.shape.inputs(), factor);
            return Some(Split { a, c, b: self.shape.rows / a, d: self.shape.cols / c });
        }
        self.inherited().split
    }

    /// Size against error of every form and rank that the options and the bound allow, without making any.
    ///
    /// # Errors
    /// A decomposition that doesn't converge.
    pub fn curves(&self, bound: Bound) -> Result<Vec<Curve>> {
        self.curves_in(self.options.format, bound)
    }

    /// The same in another format than the options say.
    ///
    /// # Errors
    /// A decomposition that doesn't converge.
    pub fn curves_in(&self, format: Format, bound: Bound) -> Result<Vec<Curve>> {
        let bound = bound.of_kernel(self.shape.kernel());
        let curves = self.all_curves(format, bound)?;
        Ok(curves.into_iter().map(|curve| curve.up_to(bound.rank)).collect())
    }

    fn all_curves(&self, format: Format, bound: Bound) -> Result<Vec<Curve>> {
        let numbers = self.shape.rows * self.shape.cols;
        let full = Curve::single(Form::Full, Point { rank: 0, error: 0.0, numbers });
        if self.is_vector() {
            return Ok(vec![full]);
        }
        if self.joint.is_zero() {
            return Ok(vec![Curve::single(zero_form(format), Point { rank: 1, error: 0.0, numbers: 0 })]);
        }
        Ok(match format {
            Format::Full => {
                self.delta().check_formable()?;
                vec![full]
            }
            Format::Lora if bound.rule.is_some() => vec![self.lora_curve(Form::Lora, bound)?],
            Format::Lora => {
                self.own(Form::Lora, bound).into_iter().chain([self.lora_curve(Form::Lora, bound)?]).collect()
            }
            Format::Lokr => match self.split() {
                Some(split) if (split.a, split.c) != (1, 1) => {
                    self.own(Form::Lokr, bound).into_iter().chain([self.lokr_curve(bound)?]).collect()
                }
                _ => vec![self.lora_curve(Form::LokrUnit, bound)?],
            },
            Format::Loha => {
                let rank = bound.rank.unwrap_or_else(|| self.inherited().rank.max(1));
                self.own(Form::Loha, bound).into_iter().chain([self.loha_curve(rank)?]).collect()
            }
            Format::Auto => self.auto_curves(bound, full)?,
        })
    }

    /// The form in which a layer that is one term already is that term: nothing needs fitting then.
    fn own(&self, wanted: Form, bound: Bound) -> Option<Curve> {
        let [(_, term)] = self.delta().terms() else { return None };
        if self.inherited().summed {
            return None;
        }
        let (form, rank) = match &**term {
            Term::Plain(Factor::Product { left, .. }) => (Form::Lora, left.ncols()),
            Term::Plain(Factor::Full(_)) => (Form::Full, 0),
            Term::Hadamard(hadamard) => (Form::Loha, hadamard.first.rank()),
            Term::Kron(kron) => (Form::Lokr, kron.b.rank()),
        };
        let split_fits = match &**term {
            Term::Kron(kron) => self.options.factor.is_none() || Some(kron.split()) == self.split(),
            _ => true,
        };
        let fits = form == wanted && split_fits && bound.rank.is_none_or(|limit| rank <= limit);
        fits.then(|| Curve::single(Form::Own, Point { rank, error: 0.0, numbers: term.numbers() }))
    }

    fn auto_curves(&self, bound: Bound, full: Curve) -> Result<Vec<Curve>> {
        let mut curves: Vec<_> = [Form::Lora, Form::Loha, Form::Lokr, Form::Full]
            .iter()
            .filter_map(|form| self.own(*form, bound))
            .collect();
        if !curves.is_empty() && bound.tolerance <= budget::EXACT {
            return Ok(curves);
        }
        let all = |kind: fn(&Term<T>) -> bool| self.delta().terms().iter().all(|(_, term)| kind(term));
        if all(|term| matches!(term, Term::Kron(_))) && lokr::common_split(self.delta()).is_some() {
            let curve = self.lokr_curve(bound)?.up_to(bound.rank);
            let holds = bound.tolerance <= budget::EXACT && curve.smallest(bound).is_some();
            curves.push(curve);
            if holds {
                return Ok(curves);
            }
        }
        if all(|term| matches!(term, Term::Hadamard(_)))
            && bound.rank.is_none()
            && self.may_be_one_loha(bound)
        {
            curves.push(self.loha_curve(self.inherited().rank.max(1))?);
        }
        curves.push(self.lora_curve(Form::Lora, bound)?);
        if bound.rank.is_none() {
            curves.push(full);
        }
        Ok(curves)
    }

    /// What to store under `bound`, and what it will cost.
    ///
    /// # Errors
    /// A decomposition that doesn't converge.
    pub fn choose(&self, bound: Bound) -> Result<Choice> {
        Ok(budget::choose(&self.curves(bound)?, bound))
    }

    /// The term of a choice, balanced for the dtype, and the power of two that multiplies it.
    ///
    /// # Errors
    /// A decomposition that doesn't converge.
    pub fn make(&self, choice: Choice) -> Result<(Term<T>, f64)> {
        let rank = choice.point.rank;
        let (mut scale, term) = match choice.form {
            _ if self.joint.is_zero() => (1.0, self.zero_term(choice.form)),
            Form::Own => {
                let (scale, term) = &self.delta().terms()[0];
                (*scale, Term::clone(term))
            }
            Form::Full if self.needs_no_kernel() => (1.0, unit(Factor::Full(self.delta().to_full()))),
            Form::Full => (1.0, Term::Plain(Factor::Full(self.delta().to_full()))),
            Form::Lora => (1.0, Term::Plain(self.low_rank(rank)?)),
            Form::LokrUnit => (1.0, unit(self.low_rank(rank)?)),
            Form::Lokr => (1.0, Term::Kron(self.nearest_kron()?.at_rank(rank)?)),
            Form::Loha => (1.0, Term::Hadamard(self.nearest_loha(rank)?.1.clone())),
        };
        if self.options.match_norm && choice.form != Form::Own && !self.joint.is_zero() {
            let norm = gram::norm(&Delta::of(1.0, term.clone()));
            if norm > 0.0 {
                scale *= self.norm() / norm;
            }
        }
        Ok(balance::balance(term, scale, self.options.dtype))
    }

    /// Whether all entries are to be stored in a form that hosts fold into the layer's own shape: a flat difference is
    /// skipped by hosts that compare shapes where the layer is a convolution, whose kernel flat factors don't tell.
    /// What they reshape is the product of a LoKr.
    fn needs_no_kernel(&self) -> bool {
        self.options.format == Format::Auto && self.shape.dims == Dims::Unknown
    }

    /// A layer without effect, stored so that it stays in the file's list of layers.
    fn zero_term(&self, form: Form) -> Term<T> {
        let (rows, cols) = (self.shape.rows, self.shape.cols);
        let nothing = || Factor::Product { left: Mat::zeros(rows, 1), right: Mat::zeros(1, cols) };
        match form {
            Form::LokrUnit => unit(nothing()),
            Form::Loha => Term::Hadamard(Hadamard { first: nothing(), second: nothing() }),
            Form::Full => Term::Plain(Factor::Full(Mat::zeros(rows, cols))),
            Form::Own | Form::Lokr | Form::Lora => Term::Plain(nothing()),
        }
    }
}

/// What a layer without effect is stored as.
fn zero_form(format: Format) -> Form {
    match format {
        Format::Auto | Format::Lora => Form::Lora,
        Format::Lokr => Form::LokrUnit,
        Format::Loha => Form::Loha,
        Format::Full => Form::Full,
    }
}

/// `[[1]]` ⊗ B, a LoKr that holds any B.
fn unit<T: Real>(b: Factor<T>) -> Term<T> {
    Term::Kron(Kron { a: Factor::Full(Mat::identity(1, 1)), b })
}
