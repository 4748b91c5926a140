//! The test delegate of tests/delegate/, compiled here, and the tiny model it runs.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test file uses its own part

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use spotter::config;
use spotter::decode::RgbPicture;
use spotter::detect::locate;

/// Compiles C into a shared library in `dir`, or tells what is missing.
pub fn compile(dir: &Path, name: &str, source: &Path) -> Result<PathBuf, String> {
    let library = dir.join(name);
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&library)
        .arg(source);
    let made = cc.output().map_err(|e| format!("no C compiler (cc): {e}; run ./setup.sh"))?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(library)
}

/// A folder with the delegate and a manifest of the tiny model.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub delegate: PathBuf,
}

impl Bench {
    pub fn new() -> Result<Self, String> {
        let library = &locate::libraries(Path::new(""), Path::new("/nonexistent"))[0];
        if !library.is_file() {
            return Err("no TensorFlow Lite library; run ./setup.sh".into());
        }
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/delegate/delegate.c");
        let delegate = compile(dir.path(), "libtestdelegate.so.1.2.3", &source)?;
        Ok(Self { dir, delegate })
    }

    pub fn place(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a manifest for a model file of tests/data/models, its bytes changed by `spoil`.
    pub fn manifest(&self, name: &str, spoil: impl Fn(Vec<u8>) -> Vec<u8>) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models");
        let bytes = spoil(fs::read(folder.join(format!("{name}.tflite"))).unwrap());
        let sha256 = format!("{:x}", Sha256::digest(&bytes));
        fs::write(self.place(&format!("{sha256}.tflite")), &bytes).unwrap();
        let toml = format!(
            "name = \"{name}\"\nfile = \"{sha256}.tflite\"\nsha256 = \"{sha256}\"\nlabels = [\"cat\", \"dog\"]\n\
             [input]\nwidth = 8\nheight = 8\nstd = [255.0, 255.0, 255.0]\n\
             [head]\nkind = \"yolo-v8\"\noutput = \"Identity\"\nnormalized = true\n"
        );
        let manifest = self.place(&format!("{sha256}.toml"));
        fs::write(&manifest, toml).unwrap();
        manifest.to_str().unwrap().into()
    }

    /// The tiny model on the delegate with these options.
    pub fn settings(&self, options: &[(&str, &str)]) -> config::Detect {
        let options: BTreeMap<_, _> =
            options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let delegate =
            config::Delegate { path: self.delegate.clone(), model: String::new(), options };
        config::Detect {
            model: self.manifest("tiny-float", |bytes| bytes),
            delegate: Some(delegate),
            animals: vec!["cat".into(), "dog".into()],
            ..Default::default()
        }
    }
}

/// In which the tiny models find one dog.
pub fn red() -> RgbPicture {
    RgbPicture { width: 80, height: 80, pixels: [255, 0, 0].repeat(6400) }
}
