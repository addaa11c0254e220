//! Directions of deltas as points of the unit sphere: everything from their norms and cosines. A point is its
//! coefficients of the unit vectors uᵢ = Δᵢ/‖Δᵢ‖; a delta that is zero has no direction, and counts for nothing.

use faer::Mat;

/// The directions of deltas.
pub(super) struct Sphere {
    pub(super) norms: Vec<f64>,
    cosines: Mat<f64>,
}

/// Below this sine two directions are one, or opposite.
const SINE: f64 = 1e-9;

impl Sphere {
    /// From the deltas' Gram matrix.
    pub(super) fn of(gram: &Mat<f64>) -> Self {
        let count = gram.nrows();
        let norms: Vec<f64> = (0..count).map(|i| gram[(i, i)].max(0.0).sqrt()).collect();
        let cosine = |i: usize, j: usize| match norms[i] * norms[j] {
            0.0 => 0.0,
            _ if i == j => 1.0,
            product => (gram[(i, j)] / product).clamp(-1.0, 1.0),
        };
        Self { cosines: Mat::from_fn(count, count, cosine), norms }
    }

    /// ⟨uᵢ, uⱼ⟩, 0 where one has no direction.
    pub(super) fn cosine(&self, i: usize, j: usize) -> f64 {
        self.cosines[(i, j)]
    }

    /// ⟨uᵢ, x⟩
    fn along(&self, i: usize, x: &[f64]) -> f64 {
        x.iter().enumerate().map(|(j, x)| x * self.cosines[(i, j)]).sum()
    }

    /// ‖x‖
    pub(super) fn norm(&self, x: &[f64]) -> f64 {
        let squared: f64 = x.iter().enumerate().map(|(i, c)| c * self.along(i, x)).sum();
        squared.max(0.0).sqrt()
    }

    /// Σ sᵢ log_m(uᵢ): where the directions lie, seen from the point `m`. The logarithm of the point opposite has every
    /// direction, and is left out.
    pub(super) fn toward(&self, m: &[f64], shares: &[f64]) -> Vec<f64> {
        let mut tangent = vec![0.0; m.len()];
        for (i, share) in shares.iter().enumerate().filter(|(i, _)| self.norms[*i] > 0.0) {
            let cosine = self.along(i, m).clamp(-1.0, 1.0);
            let sine = (1.0 - cosine * cosine).sqrt();
            let stretch = match sine < SINE {
                true if cosine > 0.0 => 1.0,
                true => 0.0,
                false => cosine.acos() / sine,
            };
            tangent[i] += share * stretch;
            tangent.iter_mut().zip(m).for_each(|(t, m)| *t -= share * stretch * cosine * m);
        }
        tangent
    }

    /// exp_m(t): the point that the great circle from `m` along `tangent` comes to after its length.
    pub(super) fn walk(&self, m: &[f64], tangent: &[f64]) -> Vec<f64> {
        let length = self.norm(tangent);
        if length == 0.0 {
            return m.to_vec();
        }
        let (sine, cosine) = length.sin_cos();
        m.iter().zip(tangent).map(|(m, t)| cosine * m + sine / length * t).collect()
    }

    /// The point's coefficients of the deltas, at the norm `scale`; one per model of `count`, zeros for those that aren't
    /// `present`.
    pub(super) fn of_deltas(&self, point: &[f64], scale: f64, present: &[usize], count: usize) -> Vec<f64> {
        let mut all = vec![0.0; count];
        for (k, index) in present.iter().enumerate().filter(|(k, _)| self.norms[*k] > 0.0) {
            all[*index] = scale * point[k] / self.norms[k];
        }
        all
    }
}

/// What a walk on the great circle from the first direction to the second has of both after the share `t` of the way.
/// Straight on where they are one, where they are so nearly opposite that every way is as short (mergekit's threshold),
/// and where there is no second direction.
pub(super) fn arc(t: f64, cosine: Option<f64>) -> [f64; 2] {
    const OPPOSITE: f64 = -0.9995;
    match cosine.map(|cosine| (cosine, cosine.clamp(-1.0, 1.0).acos())) {
        Some((cosine, angle)) if cosine > OPPOSITE && angle > 1e-6 => {
            [((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()]
        }
        _ => [1.0 - t, t],
    }
}
