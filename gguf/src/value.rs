//! Metadata values.

/// One metadata value. Strings are kept as bytes: token texts need not be UTF-8.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "one variant per GGUF value type")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Vec<u8>),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A homogeneous array; nesting is refused by the parser.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "one variant per GGUF value type")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<Vec<u8>>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}
