//! The largest sizes that a file may claim, so that a lying header cannot ask for memory.

/// Limits on what a file may hold; each is named in the error that it causes.
///
/// The number of dimensions (4) and the nesting of arrays (1) are the format's and cannot be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of header, metadata and tensor infos together; 512 MiB.
    pub metadata_bytes: u64,
    /// Bytes of one string value; 64 MiB.
    pub string_bytes: u64,
    /// Elements of one array value; 2^26.
    pub array_len: u64,
    /// Key-value pairs; 65 536.
    pub n_kv: u64,
    /// Tensors of one file; 1 048 576.
    pub n_tensors: u64,
    /// Bytes of a tensor's name; 63, as in llama.cpp.
    pub tensor_name_bytes: u64,
    /// Largest `general.alignment`; 1 MiB.
    pub alignment: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            metadata_bytes: 512 << 20,
            string_bytes: 64 << 20,
            array_len: 1 << 26,
            n_kv: 65_536,
            n_tensors: 1 << 20,
            tensor_name_bytes: 63,
            alignment: 1 << 20,
        }
    }
}
