//! A product of matrices in a device's memory by the definition: what stands in for a library where there is none.

use dpo_kernels::DType;
use dpo_kernels::cuda::plan::{DeviceAddress, Factor, Matrix, Product};
use half::{bf16, f16};

use crate::executor::{Device, bytes_of, values_of};

fn read(device: &mut (impl Device + ?Sized), address: DeviceAddress, dtype: DType, count: usize) -> Vec<f64> {
    let bytes = device.download(address, count * dtype.size());
    match dtype {
        DType::F32 => values_of::<f32>(&bytes).into_iter().map(f64::from).collect(),
        DType::F16 => values_of::<f16>(&bytes).into_iter().map(f64::from).collect(),
        DType::BF16 => values_of::<bf16>(&bytes).into_iter().map(f64::from).collect(),
    }
}

/// The bytes of numbers that are rounded to f32, in which sums are, and from there to the type.
fn rounded(dtype: DType, values: &[f64]) -> Vec<u8> {
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    match dtype {
        DType::F32 => bytes_of(&values).to_vec(),
        DType::F16 => bytes_of(&values.into_iter().map(f16::from_f32).collect::<Vec<_>>()).to_vec(),
        DType::BF16 => bytes_of(&values.into_iter().map(bf16::from_f32).collect::<Vec<_>>()).to_vec(),
    }
}

fn row_address(matrix: &Matrix, row: usize) -> DeviceAddress {
    matrix.address + (row * matrix.row_stride * matrix.dtype.size()) as u64
}

/// What is multiplied, without what lies between the rows, which nobody may read.
fn factor(device: &mut (impl Device + ?Sized), factor: &Factor) -> Vec<Vec<f64>> {
    let Factor { matrix, transposed } = factor;
    let rows: Vec<Vec<f64>> = (0..matrix.rows)
        .map(|row| read(device, row_address(matrix, row), matrix.dtype, matrix.columns))
        .collect();
    if !transposed {
        return rows;
    }
    (0..matrix.columns).map(|column| rows.iter().map(|row| row[column]).collect()).collect()
}

/// `out = left · right + bias`, or `out += left · right`.
pub fn multiply(device: &mut (impl Device + ?Sized), product: &Product) {
    let Product { left, right, out, accumulate, bias, .. } = product;
    assert_eq!(left.shape().1, right.shape().0, "{product:?}");
    assert_eq!((left.shape().0, right.shape().1), (out.rows, out.columns), "{product:?}");
    assert_eq!(left.matrix.dtype, right.matrix.dtype, "{product:?}");
    assert!(bias.is_none() || !accumulate, "{product:?}");
    let (left, right) = (factor(device, left), factor(device, right));
    let bias = bias.map(|bias| read(device, bias, out.dtype, out.columns));
    for (row, left) in left.iter().enumerate() {
        let address = row_address(out, row);
        let mut sums = match &bias {
            Some(bias) => bias.clone(),
            None if *accumulate => read(device, address, out.dtype, out.columns),
            None => vec![0.0; out.columns],
        };
        for (value, right) in left.iter().zip(&right) {
            sums.iter_mut().zip(right).for_each(|(sum, right)| *sum += value * right);
        }
        device.write(address, &rounded(out.dtype, &sums));
    }
}
