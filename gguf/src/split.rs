//! Models split over several files: `name-00001-of-00003.gguf` and so on, with `split.no`, `split.count` and
//! `split.tensors.count` in each. The paths come from the file name's pattern alone, never from what a file says.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result, key_subject, tensor_subject};
use crate::file::Options;
use crate::header::{self, Header};
use crate::index::NameIndex;
use crate::limits::Limits;
use crate::source::Source;
use crate::tensor::TensorInfo;

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS_COUNT: &str = "split.tensors.count";
/// What says whether two files are of one model, where a later file has it at all.
const IDENTITY: [&str; 3] = ["general.architecture", "general.name", TENSORS_COUNT];

/// One file with its header.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) source: Source,
    pub(crate) header: Header,
}

/// All files of a model as one.
pub(crate) struct Joined {
    pub(crate) sources: Vec<Source>,
    pub(crate) first: Header,
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) names: NameIndex,
    pub(crate) warnings: Vec<String>,
}

/// What a file's name says: part `no` (from 1) of `count`.
struct Pattern {
    prefix: OsString,
    no: u32,
    count: u32,
}

/// Opens the file at `path` and, if it is one of several, the others: in order.
pub(crate) fn open_all(path: &Path, options: &Options) -> Result<Vec<Part>> {
    let given = open_part(path, options)?;
    let pattern = Pattern::of(path);
    let count = number(&given.header, COUNT).map_err(|error| error.in_file(Some(path)))?;
    let pattern = match agreed(pattern, count).map_err(|error| error.in_file(Some(path)))? {
        Some(pattern) => pattern,
        None => return Ok(vec![given]),
    };
    check_part(&given, &pattern, pattern.no).map_err(|error| error.in_file(Some(path)))?;

    let mut given = Some(given);
    let mut parts: Vec<Part> = Vec::new();
    for no in 1..=pattern.count {
        let part = match given.take_if(|_| no == pattern.no) {
            Some(part) => part,
            None => open_sibling(path, &pattern, no, options)?,
        };
        if let Some(first) = parts.first() {
            check_same_model(first, &part).map_err(|error| error.in_file(part.source.path()))?;
        }
        parts.push(part);
    }
    Ok(parts)
}

/// Refuses one file of several where the others cannot be found.
pub(crate) fn refuse_part(header: &Header) -> Result<()> {
    match number(header, COUNT)? {
        None | Some(1) => Ok(()),
        Some(count) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("one of {count} files of a split model, which can be opened by path only"),
        )
        .about(|| key_subject(COUNT))),
    }
}

/// Puts the tensors of all files in one list.
pub(crate) fn join(parts: Vec<Part>, limits: &Limits) -> Result<Joined> {
    let mut parts = parts.into_iter();
    let Some(Part { source, header: mut first }) = parts.next() else {
        return Err(Error::new(ErrorKind::Usage, "no file"));
    };
    let mut joined = Joined {
        tensors: std::mem::take(&mut first.tensors),
        names: std::mem::take(&mut first.names),
        warnings: std::mem::take(&mut first.warnings),
        sources: vec![source],
        first,
    };
    for part in parts {
        joined.add(part, limits)?;
    }
    let expected = number(&joined.first, TENSORS_COUNT);
    match expected.map_err(|error| error.in_file(joined.sources[0].path()))? {
        Some(n) if joined.sources.len() > 1 && n != joined.tensors.len() as u64 => {
            let what = format!(
                "{n} tensors, the {} files have {}",
                joined.sources.len(),
                joined.tensors.len()
            );
            Err(Error::malformed(what)
                .about(|| key_subject(TENSORS_COUNT))
                .in_file(joined.sources[0].path()))
        }
        _ => Ok(joined),
    }
}

impl Joined {
    fn add(&mut self, part: Part, limits: &Limits) -> Result<()> {
        let shard = self.sources.len();
        let Part { source, header } = part;
        if (self.tensors.len() + header.tensors.len()) as u64 > limits.n_tensors {
            let what = format!("over {} tensors in all files together", limits.n_tensors);
            return Err(Error::new(ErrorKind::Limit, what).in_file(source.path()));
        }
        self.tensors.reserve(header.tensors.len());
        for mut tensor in header.tensors {
            tensor.shard = shard;
            let i = self.tensors.len() as u32;
            if let Err(other) =
                self.names.insert(&tensor.name, i, |i| &self.tensors[i as usize].name)
            {
                let there = self.tensors[other as usize].shard + 1;
                let what =
                    format!("duplicate name: in file {there} and again in file {}", shard + 1);
                return Err(Error::malformed(what)
                    .about(|| tensor_subject(&tensor.name))
                    .in_file(source.path()));
            }
            self.tensors.push(tensor);
        }
        self.warnings.extend(header.warnings);
        self.sources.push(source);
        Ok(())
    }
}

fn open_part(path: &Path, options: &Options) -> Result<Part> {
    let source = Source::open(path, options.access)?;
    let header = header::parse(&source, options.start, &options.limits)?;
    Ok(Part { source, header })
}

fn open_sibling(path: &Path, pattern: &Pattern, no: u32, options: &Options) -> Result<Part> {
    let sibling = pattern.path(path, no);
    let part = open_part(&sibling, options).map_err(|error| {
        if error.kind() != ErrorKind::NotFound {
            return error;
        }
        let what = format!("file {no} of {} of the model is missing", pattern.count);
        Error::new(ErrorKind::NotFound, what)
            .hint("all files of a split model must lie in one folder under their own names")
            .in_file(Some(&sibling))
    })?;
    check_part(&part, pattern, no).map_err(|error| error.in_file(Some(&sibling)))?;
    Ok(part)
}

/// Whether there are several files, by the name and by the key `split.count`, which must agree.
fn agreed(pattern: Option<Pattern>, count: Option<u64>) -> Result<Option<Pattern>> {
    let named = pattern.as_ref().map(|pattern| pattern.count);
    let wrong = |what: String| {
        Err(Error::malformed(what)
            .about(|| key_subject(COUNT))
            .hint("keep the name that the file was published under: NAME-00001-of-00003.gguf"))
    };
    match (count, named) {
        (None | Some(1), None | Some(1)) => Ok(None),
        (Some(0), _) => wrong("found 0, allowed 1..=65535".to_owned()),
        (None, Some(named)) => wrong(format!("missing, the file's name says {named} files")),
        (Some(count), None) => {
            wrong(format!("found {count}, the file's name does not say which of them it is"))
        }
        (Some(count), Some(named)) if count != u64::from(named) => {
            wrong(format!("found {count}, the file's name says {named} files"))
        }
        (Some(_), Some(_)) => Ok(pattern),
    }
}

/// Checks that a file says of itself what its name says.
fn check_part(part: &Part, pattern: &Pattern, no: u32) -> Result<()> {
    if pattern.no == 0 || pattern.no > pattern.count {
        return Err(Error::malformed(format!(
            "the file's name says file {} of {}",
            pattern.no, pattern.count
        )));
    }
    let expect = |key: &str, expected: u64| match number(&part.header, key)? {
        Some(found) if found == expected => Ok(()),
        Some(found) => {
            let what = format!("found {found}, expected {expected} from the file's name");
            Err(Error::malformed(what).about(|| key_subject(key)))
        }
        None => Err(Error::malformed(format!("missing, expected {expected} from the file's name"))
            .about(|| key_subject(key))),
    };
    expect(COUNT, pattern.count.into())?;
    expect(NO, u64::from(no) - 1)
}

fn check_same_model(first: &Part, other: &Part) -> Result<()> {
    for key in IDENTITY {
        let (here, there) = (other.header.metadata.get(key), first.header.metadata.get(key));
        if here.is_some() && here != there {
            return Err(Error::malformed(
                "differs from the first file's: a file of another model?",
            )
            .about(|| key_subject(key)));
        }
    }
    Ok(())
}

/// A key of any integer type that must not be negative.
fn number(header: &Header, key: &str) -> Result<Option<u64>> {
    let Some(value) = header.metadata.get(key) else { return Ok(None) };
    match value.as_int().map(u64::try_from) {
        Some(Ok(n)) => Ok(Some(n)),
        Some(Err(_)) => Err(Error::malformed("negative").about(|| key_subject(key))),
        None => {
            let what = format!("found {}, wanted an integer", value.type_name());
            Err(Error::malformed(what).about(|| key_subject(key)))
        }
    }
}

impl Pattern {
    /// Takes `prefix-00001-of-00003.gguf` apart; `None` for a name of another shape.
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?;
        let bytes = name.as_encoded_bytes();
        let rest = bytes.strip_suffix(b".gguf")?;
        let (rest, count) = strip_number(rest, b"-of-")?;
        let (prefix, no) = strip_number(rest, b"-")?;
        Some(Self { prefix: os_string(prefix)?, no, count })
    }

    /// The path of file `no`, beside `path`.
    fn path(&self, path: &Path, no: u32) -> PathBuf {
        let mut name = self.prefix.clone();
        name.push(format!("-{no:05}-of-{:05}.gguf", self.count));
        path.with_file_name(name)
    }
}

/// Splits `…{before}{five digits}` into the rest and the number.
fn strip_number<'a>(bytes: &'a [u8], before: &[u8]) -> Option<(&'a [u8], u32)> {
    let (rest, digits) = bytes.split_last_chunk::<5>()?;
    let n = digits
        .iter()
        .try_fold(0, |n, d| d.is_ascii_digit().then(|| n * 10 + u32::from(d - b'0')))?;
    Some((rest.strip_suffix(before)?, n))
}

#[cfg(unix)]
fn os_string(bytes: &[u8]) -> Option<OsString> {
    use std::os::unix::ffi::OsStrExt;
    Some(OsStr::from_bytes(bytes).to_owned())
}

#[cfg(not(unix))]
fn os_string(bytes: &[u8]) -> Option<OsString> {
    std::str::from_utf8(bytes).ok().map(|text| OsStr::new(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |name: &str, expect: Option<(u32, u32)>| {
            let pattern = Pattern::of(Path::new(name));
            assert_eq!(pattern.map(|p| (p.no, p.count)), expect, "{name}");
        };
        check("dir/model-00002-of-00003.gguf", Some((2, 3)));
        check("-00001-of-65535.gguf", Some((1, 65535)));
        check("model-0002-of-0003.gguf", None);
        check("model-00002-of-00003.GGUF", None);
        check("model-+0002-of-00003.gguf", None);
        check("00002-of-00003.gguf", None);
        check("model.gguf", None);
        let path = Path::new("a/b-00002-of-00003.gguf");
        let pattern = Pattern::of(path).unwrap();
        assert_eq!(pattern.path(path, 3), Path::new("a/b-00003-of-00003.gguf"));
    }
}
