//! What is measured.

use dpo_kernels::DType;

use crate::common::Shape;

/// Rows, vocabulary and the logits' type.
#[derive(Clone, Copy, PartialEq)]
pub struct TypedShape {
    pub size: Shape,
    pub dtype: DType,
}

impl TypedShape {
    pub fn name(&self) -> String {
        format!("{}x{} {}", self.size.rows, self.size.vocab, self.dtype.name())
    }
}

/// Each stands for a bound of its own.
const TELLING: [(usize, usize, DType); 9] = [
    (8192, 128_256, DType::BF16),  // memory
    (8192, 151_936, DType::BF16),  // a larger vocabulary
    (4096, 262_144, DType::BF16),  // few long rows
    (16_384, 50_257, DType::BF16), // rows off a vector's boundary
    (8192, 32_000, DType::BF16),   // middling rows
    (65_536, 4096, DType::BF16),   // short rows
    (1024, 32_000, DType::BF16),   // a few tens of microseconds
    (64, 128_256, DType::BF16),    // fewer rows than multiprocessors
    (64, 4096, DType::BF16),       // a launch and nothing else
];

/// The same with other dtypes, and a grid of small and middling sizes.
pub fn shapes(full: bool) -> Vec<TypedShape> {
    let grid = [4096, 32_000, 50_257, 128_256]
        .into_iter()
        .flat_map(|vocab| [64, 256, 1024, 4096].map(|rows| (rows, vocab, DType::BF16)));
    let others = [
        (8192, 128_256, DType::F16),
        (4096, 128_256, DType::F32),
        (8192, 32_000, DType::F32),
        (1024, 32_000, DType::F32),
        (64, 32_000, DType::F32),
    ];
    let mut shapes: Vec<TypedShape> = Vec::new();
    for (rows, vocab, dtype) in TELLING.into_iter().chain(others.into_iter().chain(grid).filter(|_| full)) {
        let shape = TypedShape { size: Shape { rows, vocab }, dtype };
        if !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    shapes
}
