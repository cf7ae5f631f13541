//! What the header says about one tensor, and the arithmetic of its size.

use crate::dtype::DType;
use crate::error::{Error, Result};

/// Largest number of dimensions of a tensor, ggml's.
pub(crate) const MAX_DIMS: u32 = 4;

/// A tensor of a file. All sizes were checked when the file was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// The format of its weights.
    pub dtype: DType,
    /// Its dimensions in ggml's order: the row length first. Empty for a single element.
    pub dims: Vec<u64>,
    /// Where its data starts in the file of its shard, in bytes.
    pub offset: u64,
    /// Bytes of data.
    pub n_bytes: u64,
    /// Which file of a split model it is in; 0 where there is one.
    pub shard: usize,
}

impl TensorInfo {
    /// Number of weights.
    pub fn n_elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Weights of one row: the first dimension.
    pub fn row_len(&self) -> u64 {
        self.dims.first().copied().unwrap_or(1)
    }

    /// Number of rows: the product of the other dimensions.
    pub fn n_rows(&self) -> u64 {
        self.dims.iter().skip(1).product()
    }
}

/// Bytes of a tensor, or why it cannot be. Nothing here wraps, whatever the dimensions.
pub(crate) fn n_bytes(dtype: DType, dims: &[u64]) -> Result<u64> {
    const MAX: u64 = i64::MAX as u64;
    if let Some(i) = dims.iter().position(|&n| n > MAX) {
        return Err(Error::malformed(format!("dimension {i} is {}, allowed 0..={MAX}", dims[i])));
    }
    // Zeroes are left out, so that [2^62, 2^62, 0] does not hide its overflow.
    let elements =
        dims.iter().filter(|&&n| n > 0).try_fold(1u64, |product, &n| product.checked_mul(n));
    let Some(elements) = elements.filter(|&n| n <= MAX) else {
        return Err(Error::malformed(format!("shape {dims:?} has over {MAX} elements")));
    };
    let (row, block) = (dims.first().copied().unwrap_or(1), dtype.block_len() as u64);
    if row % block != 0 {
        let what = format!(
            "row length {row} of shape {dims:?} is not a multiple of {dtype}'s block of {block}"
        );
        return Err(Error::malformed(what));
    }
    let bytes = (elements / block).checked_mul(dtype.block_bytes() as u64).filter(|&n| n <= MAX);
    match bytes {
        Some(_) if dims.contains(&0) => Ok(0),
        Some(bytes) => Ok(bytes),
        None => Err(Error::malformed(format!("shape {dims:?} of {dtype} has over {MAX} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(n_bytes(DType::F32, &[]).unwrap(), 4);
        assert_eq!(n_bytes(DType::F32, &[0]).unwrap(), 0);
        assert_eq!(n_bytes(DType::F16, &[3, 5, 7, 11]).unwrap(), 2 * 3 * 5 * 7 * 11);
        assert_eq!(n_bytes(DType::Q4_0, &[64, 3]).unwrap(), 6 * 18);
        assert!(n_bytes(DType::Q4_0, &[]).is_err());
        assert!(n_bytes(DType::Q4_0, &[33]).is_err());
        assert!(n_bytes(DType::F32, &[u64::MAX]).is_err());
        assert!(n_bytes(DType::F32, &[1 << 62, 1 << 62, 0]).is_err());
        // 2^63 elements in fewer than 2^63 bytes.
        assert!(n_bytes(DType::Q4_0, &[32, 1 << 58]).is_err());
        assert!(n_bytes(DType::F32, &[4, (1 << 30) - 1, (1 << 30) + 1]).is_err());
    }
}
