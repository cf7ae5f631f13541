//! Metadata by key and type, with an error that names key, found and wanted.

use std::borrow::Cow;

use crate::error::{Error, ErrorKind, Result, key_subject};
use crate::file::File;
use crate::value::{Array, Strings, Value};

macro_rules! required {
    ($($(#[$doc:meta])* $name:ident = $get:ident -> $type:ty;)*) => {
        impl File {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// As the getter without `required`, and `MissingKey` if there is no such key.
            pub fn $name(&self, key: &str) -> Result<$type> {
                self.$get(key)?.ok_or_else(|| self.missing(key))
            }
        )*}
    };
}

required! {
    /// [`File::u32`], where the key must be there.
    required_u32 = u32 -> u32;
    /// [`File::u64`], where the key must be there.
    required_u64 = u64 -> u64;
    /// [`File::f32`], where the key must be there.
    required_f32 = f32 -> f32;
    /// [`File::bool`], where the key must be there.
    required_bool = bool -> bool;
    /// [`File::str`], where the key must be there.
    required_str = str -> Cow<'_, str>;
    /// [`File::strings`], where the key must be there.
    required_strings = strings -> &Strings;
    /// [`File::f32s`], where the key must be there.
    required_f32s = f32s -> Cow<'_, [f32]>;
    /// [`File::i32s`], where the key must be there.
    required_i32s = i32s -> Cow<'_, [i32]>;
    /// [`File::u32s`], where the key must be there.
    required_u32s = u32s -> Cow<'_, [u32]>;
}

/// All return `Ok(None)` for a key that the file does not have, and `BadKey` for one of another type or range.
impl File {
    /// An integer of any type, if it is in `u32`'s range.
    ///
    /// # Errors
    /// `BadKey` for another type, or a value out of range.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.int(key, "u32", u32::MIN.into(), u32::MAX.into())
    }

    /// An integer of any type, if it is in `u64`'s range.
    ///
    /// # Errors
    /// `BadKey` for another type, or a value out of range.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.int(key, "u64", u64::MIN.into(), u64::MAX.into())
    }

    /// An integer of any type, if it is in `i64`'s range.
    ///
    /// # Errors
    /// `BadKey` for another type, or a value out of range.
    pub fn i64(&self, key: &str) -> Result<Option<i64>> {
        self.int(key, "i64", i64::MIN.into(), i64::MAX.into())
    }

    /// A finite number of type f32 or f64.
    ///
    /// # Errors
    /// `BadKey` for another type, NaN, an infinity, or an f64 beyond f32's range.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        let found = match self.get(key) {
            None => return Ok(None),
            Some(Value::F32(v)) => *v,
            Some(Value::F64(v)) => *v as f32,
            Some(other) => return Err(self.wrong_type(key, other, "f32")),
        };
        if !found.is_finite() {
            return Err(self.bad_key(key, format!("found {found}, allowed a finite number")));
        }
        Ok(Some(found))
    }

    /// A bool.
    ///
    /// # Errors
    /// `BadKey` for another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(other) => Err(self.wrong_type(key, other, "bool")),
        }
    }

    /// The text of a string; what is not UTF-8 becomes U+FFFD (see [`File::warnings`]).
    ///
    /// # Errors
    /// `BadKey` for another type.
    pub fn str(&self, key: &str) -> Result<Option<Cow<'_, str>>> {
        Ok(self.bytes(key)?.map(String::from_utf8_lossy))
    }

    /// The bytes of a string.
    ///
    /// # Errors
    /// `BadKey` for another type.
    pub fn bytes(&self, key: &str) -> Result<Option<&[u8]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(other) => Err(self.wrong_type(key, other, "string")),
        }
    }

    /// An array of strings, as bytes.
    ///
    /// # Errors
    /// `BadKey` for another type.
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::String(v))) => Ok(Some(v)),
            Some(other) => Err(self.wrong_type(key, other, "array of string")),
        }
    }

    /// An array of f32, or of f64 (rounded). Its numbers need not be finite.
    ///
    /// # Errors
    /// `BadKey` for another type.
    pub fn f32s(&self, key: &str) -> Result<Option<Cow<'_, [f32]>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::F32(v))) => Ok(Some(Cow::Borrowed(v))),
            Some(Value::Array(Array::F64(v))) => Ok(Some(v.iter().map(|&v| v as f32).collect())),
            Some(other) => Err(self.wrong_type(key, other, "array of f32")),
        }
    }

    /// An array of bool.
    ///
    /// # Errors
    /// `BadKey` for another type.
    pub fn bools(&self, key: &str) -> Result<Option<&[bool]>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::Bool(v))) => Ok(Some(v)),
            Some(other) => Err(self.wrong_type(key, other, "array of bool")),
        }
    }

    /// An array of integers of any type, if all are in `i32`'s range.
    ///
    /// # Errors
    /// `BadKey` for another type, or a value out of range.
    pub fn i32s(&self, key: &str) -> Result<Option<Cow<'_, [i32]>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::I32(v))) => Ok(Some(Cow::Borrowed(v))),
            Some(other) => self.ints(key, other, "array of i32").map(|v| Some(Cow::Owned(v))),
        }
    }

    /// An array of integers of any type, if all are in `u32`'s range.
    ///
    /// # Errors
    /// `BadKey` for another type, or a value out of range.
    pub fn u32s(&self, key: &str) -> Result<Option<Cow<'_, [u32]>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::U32(v))) => Ok(Some(Cow::Borrowed(v))),
            Some(other) => self.ints(key, other, "array of u32").map(|v| Some(Cow::Owned(v))),
        }
    }

    /// The error for a key that must be there.
    pub fn missing(&self, key: &str) -> Error {
        Error::new(ErrorKind::MissingKey, format!("missing {}", key_subject(key)))
            .in_file(self.path())
    }

    fn int<T: TryFrom<i128>>(
        &self,
        key: &str,
        wanted: &str,
        min: i128,
        max: i128,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Some(found) = value.as_int() else { return Err(self.wrong_type(key, value, wanted)) };
        match T::try_from(found) {
            Ok(v) => Ok(Some(v)),
            Err(_) => Err(self.bad_key(key, format!("found {found}, allowed {min}..={max}"))),
        }
    }

    fn ints<T: TryFrom<i128>>(&self, key: &str, value: &Value, wanted: &str) -> Result<Vec<T>> {
        let Value::Array(array) = value else { return Err(self.wrong_type(key, value, wanted)) };
        let convert = |i: usize, v: i128| {
            T::try_from(v).map_err(|_| {
                self.bad_key(key, format!("element {i} is {v}, out of range for {wanted}"))
            })
        };
        match array {
            Array::U8(v) => v.iter().enumerate().map(|(i, &v)| convert(i, v.into())).collect(),
            Array::I8(v) => v.iter().enumerate().map(|(i, &v)| convert(i, v.into())).collect(),
            Array::U16(v) => v.iter().enumerate().map(|(i, &v)| convert(i, v.into())).collect(),
            Array::I16(v) => v.iter().enumerate().map(|(i, &v)| convert(i, v.into())).collect(),
            Array::U32(v) => v.iter().enumerate().map(|(i, &v)| convert(i, v.into())).collect(),
            Array::I32(v) => v.iter().enumerate().map(|(i, &v)| convert(i, v.into())).collect(),
            Array::U64(v) => v.iter().enumerate().map(|(i, &v)| convert(i, v.into())).collect(),
            Array::I64(v) => v.iter().enumerate().map(|(i, &v)| convert(i, v.into())).collect(),
            Array::F32(_) | Array::F64(_) | Array::Bool(_) | Array::String(_) => {
                Err(self.wrong_type(key, value, wanted))
            }
        }
    }

    fn wrong_type(&self, key: &str, found: &Value, wanted: &str) -> Error {
        self.bad_key(key, format!("found {}, wanted {wanted}", found.type_name()))
    }

    fn bad_key(&self, key: &str, what: String) -> Error {
        Error::new(ErrorKind::BadKey, what).about(|| key_subject(key)).in_file(self.path())
    }
}
