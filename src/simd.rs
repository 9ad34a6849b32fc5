//! Loops compiled several times, for the vector instructions that a processor may have, and picked when the program runs.
//!
//! The loops stay plain Rust, without intrinsics: multiplications and additions are never fused and roots and divisions are
//! exact, so that their results have the same bits whichever is picked.

/// A loop to be compiled for each kind of processor. `run` and all that it calls must be `#[inline(always)]`, or they stay as slow
/// as for the oldest one.
pub(crate) trait Loop {
    type Output;

    fn run(self) -> Self::Output;
}

/// What the processor can do.
// Invariant: a kind other than `Portable` was seen to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cpu(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Cpu {
    /// The best that this processor has.
    #[inline]
    pub(crate) fn detect() -> Cpu {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                return Cpu(Kind::Avx512);
            }
            if std::arch::is_x86_feature_detected!("avx2") {
                return Cpu(Kind::Avx2);
            }
        }
        Cpu(Kind::Portable)
    }

    /// All that this processor has, for tests: they must not differ in a bit.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Cpu> {
        let mut all = vec![Cpu(Kind::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(std::arch::is_x86_feature_detected!("avx2").then_some(Cpu(Kind::Avx2)));
            all.extend(std::arch::is_x86_feature_detected!("avx512f").then_some(Cpu(Kind::Avx512)));
        }
        all
    }

    #[inline(always)]
    pub(crate) fn run<L: Loop>(self, work: L) -> L::Output {
        match self.0 {
            Kind::Portable => work.run(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has it (invariant of `Cpu`).
            Kind::Avx2 => unsafe { avx2(work) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has it (invariant of `Cpu`).
            Kind::Avx512 => unsafe { avx512(work) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<L: Loop>(work: L) -> L::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512<L: Loop>(work: L) -> L::Output {
    work.run()
}

/// A loop over one row: its weights, its state and what the batch brings for it. As [`Loop`], but picked once for many rows.
pub(crate) trait RowLoop {
    /// What the rows of a batch have in common.
    type Step;

    fn run(step: &Self::Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]);
}

/// A [`RowLoop`] as compiled for this processor.
// Invariant: the processor has what the function is compiled for.
#[derive(Debug)]
pub(crate) struct Picked<S>(unsafe fn(&S, &mut [f32], &mut [f32], &[f32]));

impl<S> Clone for Picked<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Picked<S> {}

impl<S> Picked<S> {
    pub(crate) fn of<L: RowLoop<Step = S>>(cpu: Cpu) -> Picked<S> {
        match cpu.0 {
            Kind::Portable => Picked(L::run),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => Picked(row_avx2::<L>),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => Picked(row_avx512::<L>),
        }
    }

    #[inline(always)]
    pub(crate) fn run(self, step: &S, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        // SAFETY: the processor has what the function is compiled for (invariant).
        unsafe { (self.0)(step, weights, state, grad) }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn row_avx2<L: RowLoop>(step: &L::Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
    L::run(step, weights, state, grad);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn row_avx512<L: RowLoop>(step: &L::Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
    L::run(step, weights, state, grad);
}

/// Whether all values are finite. Without an exit between them, so that many are compared at once.
pub(crate) struct AllFinite<'a>(pub(crate) &'a [f32]);

impl Loop for AllFinite<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        self.0.iter().fold(true, |all, value| all & value.is_finite())
    }
}

/// Adds to each value the one at its place.
pub(crate) struct Add<'a> {
    pub(crate) to: &'a mut [f32],
    pub(crate) values: &'a [f32],
}

impl Loop for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.to.iter_mut().zip(self.values).for_each(|(to, value)| *to += value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_finds_what_is_not_finite_and_adds_the_same_bits() {
        assert!(Cpu::all().contains(&Cpu::detect()));
        for cpu in Cpu::all() {
            for length in 0..70usize {
                let values: Vec<f32> = (0..length).map(|i| 0.1 + i as f32 * 1.7).collect();
                assert!(cpu.run(AllFinite(&values)));
                for (at, bad) in (0..length).zip([f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().cycle()) {
                    let mut wrong = values.clone();
                    wrong[at] = bad;
                    assert!(!cpu.run(AllFinite(&wrong)), "{cpu:?}: {bad} at {at} of {length}");
                }
                let mut sums: Vec<f32> = values.iter().map(|v| 1.0 / (v + 3.0)).collect();
                let expected: Vec<u32> = sums.iter().zip(&values).map(|(s, v)| (s + v).to_bits()).collect();
                cpu.run(Add { to: &mut sums, values: &values });
                assert_eq!(sums.iter().map(|s| s.to_bits()).collect::<Vec<_>>(), expected, "{cpu:?} {length}");
            }
        }
    }
}
