//! What the signed store takes and what it refuses, each by name.
use fleet_protocol::Extra;
use fleet_protocol::envelope::Payload as _;
use fleet_protocol::keys::SigningKey;
use fleet_protocol::order::BundleStatement;
use trainer_core::model::Strategy;
use trainer_core::schema::{Feature, FeatureKind, Rows, Task};
use trainer_core::spec::Spec;
use trainer_core::train::{TrainSettings, adapt, base};

use super::*;
use crate::shell::disk::RealDisk;

const VENDOR: u8 = 1;
const OPERATOR: u8 = 2;
const STRANGER: u8 = 9;

fn rows(sign: f32) -> Rows {
    let mut rows = Rows::empty(1, 1);
    for row in 0..80_u8 {
        let x = f32::from(row % 16) - 7.5;
        rows.push(&[x], &[f32::from(u8::from(x * sign > 0.0))]);
    }
    rows
}

fn factory_named(feature: &str) -> Model {
    let feature = Feature { name: feature.to_owned(), unit: None, kind: FeatureKind::Number, range: None };
    let task = Task::Classification { classes: vec!["low".to_owned(), "high".to_owned()] };
    let schema = Schema { features: vec![feature], task };
    base(&schema, &Spec::default(), &rows(1.0), &TrainSettings::default(), 1).unwrap().model
}

fn trained(strategy: Strategy) -> Vec<u8> {
    let mut model = adapt(&factory_named("x"), strategy, &rows(-1.0), &TrainSettings::default(), 2).unwrap().model;
    bundle::write(&mut model).0
}

fn factory() -> Vec<u8> {
    bundle::write(&mut factory_named("x")).0
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn statement(bytes: &[u8], sequence: u64) -> BundleStatement {
    BundleStatement {
        v: 1,
        digest: signed::to_wire(&Digest::of(bytes)),
        sequence,
        parent: None,
        epoch: 0,
        role: Role::Vendor,
        device: None,
        trainable: None,
        extra: Extra::new(),
    }
}

fn signed_by(seed: u8, statement: &BundleStatement) -> Vec<u8> {
    statement.sign(&[&key(seed)]).to_json()
}

struct World {
    folder: tempfile::TempDir,
    floors: Floors,
}

impl World {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), floors: Floors::default() }
    }

    fn vault(&self, required: bool) -> Vault {
        let files = ModelStore::open(&self.folder.path().join("models"), "safetensors").unwrap();
        let own = DeviceKey::open(&RealDisk, self.folder.path()).unwrap();
        let mut keys = KeySet::default();
        keys.trust(key(VENDOR).verifying_key().as_bytes(), &[Role::Vendor]).unwrap();
        keys.trust(key(OPERATOR).verifying_key().as_bytes(), &[Role::Operator]).unwrap();
        Vault::new(files, own, keys, Some("press-7".parse().unwrap()), required).unwrap()
    }

    fn install(&mut self, bytes: &[u8], envelope: Option<&[u8]>) -> Result<Installed, Refused> {
        let installed = self.vault(true).install(bytes, envelope, Door::Network, &self.floors, None)?;
        installed.remember(&mut self.floors);
        Ok(installed)
    }

    fn is_empty(&self) -> bool {
        std::fs::read_dir(self.folder.path().join("models")).map_or(true, |mut files| files.next().is_none())
    }
}

#[test]
fn a_vendors_bundle_is_taken_loaded_and_what_the_device_trains_from_it_is_signed_by_the_device() {
    let mut world = World::new();
    let factory = factory();
    let installed = world.install(&factory, Some(&signed_by(VENDOR, &statement(&factory, 1)))).unwrap();
    assert_eq!(installed.standing, Standing::Vendor);
    let vault = world.vault(true);
    assert_eq!(vault.bytes(&installed.digest, &world.floors).unwrap(), factory);
    for strategy in [Strategy::Head, Strategy::Tail] {
        let candidate = vault.files.put(&trained(strategy)).unwrap();
        assert!(matches!(vault.standing(&candidate, &world.floors), Err(Refused::Unsigned)));
        vault.sign(candidate, installed.digest, &mut world.floors).unwrap();
        assert_eq!(vault.standing(&candidate, &world.floors).unwrap(), (Standing::Device, 0));
        assert_eq!(vault.ancestor(&candidate), Some(installed.digest));
    }
    assert_eq!(world.floors.next(vault.device_key()), 3, "each has a number of its own");
}

#[test]
fn the_device_does_not_answer_for_a_changed_backbone_nor_for_what_descends_from_nobody() {
    let mut world = World::new();
    let factory = factory();
    let installed = world.install(&factory, Some(&signed_by(VENDOR, &statement(&factory, 1)))).unwrap();
    let vault = world.vault(true);
    let full = vault.files.put(&trained(Strategy::Full)).unwrap();
    let refused = vault.sign(full, installed.digest, &mut world.floors).unwrap_err();
    assert!(matches!(refused, Refused::Frozen { ref tensor, .. } if tensor.starts_with("layers.0")), "{refused}");
    let orphan = vault.sign(full, full, &mut world.floors).unwrap_err();
    assert!(matches!(orphan, Refused::NoAncestor(_)), "{orphan}");
    assert!(matches!(vault.bytes(&full, &world.floors), Err(Refused::Unsigned)));
}

#[test]
fn an_operator_is_bound_to_what_the_vendor_allows() {
    let mut world = World::new();
    let factory = factory();
    world.install(&factory, Some(&signed_by(VENDOR, &statement(&factory, 1)))).unwrap();
    let by_operator = |bytes: &[u8]| {
        let parent = Some(signed::to_wire(&Digest::of(&factory)));
        signed_by(OPERATOR, &BundleStatement { role: Role::Operator, parent, ..statement(bytes, 1) })
    };
    let (head, full) = (trained(Strategy::Head), trained(Strategy::Full));
    assert!(matches!(world.install(&full, Some(&by_operator(&full))), Err(Refused::Frozen { .. })));
    assert_eq!(world.install(&head, Some(&by_operator(&head))).unwrap().standing, Standing::Operator);
}

#[test]
fn what_is_wrong_is_refused_by_name_and_nothing_of_it_is_stored() {
    let (mut world, bytes) = (World::new(), factory());
    let good = statement(&bytes, 1);
    let code = |world: &mut World, bytes: &[u8], envelope: Option<&[u8]>| {
        let refused = world.install(bytes, envelope).unwrap_err();
        assert!(world.is_empty(), "{refused}");
        refused.code()
    };
    assert_eq!(code(&mut world, &bytes, None), "unsigned");
    assert_eq!(code(&mut world, &bytes, Some(b"{}")), "rejected_signature");
    assert_eq!(code(&mut world, &bytes, Some(&signed_by(STRANGER, &good))), "rejected_signature");
    // Rightly signed, but as what the key is not.
    assert_eq!(code(&mut world, &bytes, Some(&signed_by(OPERATOR, &good))), "rejected_signature");
    let as_device = BundleStatement { role: Role::Device, ..good.clone() };
    assert_eq!(code(&mut world, &bytes, Some(&signed_by(VENDOR, &as_device))), "rejected_signature");
    let elsewhere = BundleStatement { device: Some("press-8".parse().unwrap()), ..good.clone() };
    assert_eq!(code(&mut world, &bytes, Some(&signed_by(VENDOR, &elsewhere))), "other_device");
    let newer = BundleStatement { v: 2, ..good.clone() };
    assert_eq!(code(&mut world, &bytes, Some(&signed_by(VENDOR, &newer))), "rejected_signature");
    let other = trained(Strategy::Head);
    assert_eq!(code(&mut world, &other, Some(&signed_by(VENDOR, &good))), "other_bundle");
    let truncated = &bytes[..bytes.len() - 1];
    assert_eq!(code(&mut world, truncated, Some(&signed_by(VENDOR, &statement(truncated, 1)))), "bundle");
    let schema = factory_named("y").manifest.schema;
    let envelope = signed_by(VENDOR, &good);
    let refused = world.vault(true).install(&bytes, Some(&envelope), Door::Network, &world.floors, Some(&schema));
    assert_eq!(refused.unwrap_err().code(), "schema");
    world.floors.epoch = 1;
    assert_eq!(code(&mut world, &bytes, Some(&envelope)), "older_epoch");
    world.floors.epoch = 0;
    world.floors.take(&KeyId::of(&key(VENDOR).verifying_key()), 1, Digest::of(b"an earlier one"));
    assert_eq!(code(&mut world, &bytes, Some(&envelope)), "older_sequence");
    assert!(world.install(&bytes, Some(&signed_by(VENDOR, &statement(&bytes, 2)))).is_ok());
}

#[test]
fn an_oversized_file_is_refused_by_its_length_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.safetensors");
    // A hole: to read it would take a terabyte.
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let refused = read_limited(&RealDisk, &path).unwrap_err();
    assert!(matches!(refused, Refused::Bundle(BundleError::TooLarge { bytes, .. }) if bytes == 1 << 40), "{refused}");
}

#[test]
fn the_owners_unsigned_model_is_called_so_and_is_not_taken_from_the_network_or_where_signatures_are_needed() {
    let world = World::new();
    let (bytes, vault) = (factory(), world.vault(false));
    let taken = |door| vault.install(&bytes, None, door, &world.floors, None);
    assert_eq!(taken(Door::Network).unwrap_err().code(), "unsigned");
    let installed = taken(Door::Local).unwrap();
    assert_eq!(installed.standing, Standing::Owner);
    assert_eq!(vault.standing(&installed.digest, &world.floors).unwrap().0, Standing::Owner);
    let mut floors = world.floors.clone();
    let full = vault.files.put(&trained(Strategy::Full)).unwrap();
    vault.sign(full, installed.digest, &mut floors).unwrap();
    assert_eq!(vault.standing(&full, &floors).unwrap().0, Standing::Device, "all of it is the owner's to change");
    let strict = world.vault(true);
    assert_eq!(strict.install(&bytes, None, Door::Local, &world.floors, None).unwrap_err().code(), "unsigned");
    for digest in [installed.digest, full] {
        assert_eq!(strict.standing(&digest, &floors).unwrap_err().code(), "unsigned", "keys came later");
    }
}

#[test]
fn a_signature_that_was_changed_on_the_disk_refuses_its_model() {
    let mut world = World::new();
    let factory = factory();
    let installed = world.install(&factory, Some(&signed_by(VENDOR, &statement(&factory, 1)))).unwrap();
    let vault = world.vault(true);
    let path = vault.envelope_path(&installed.digest);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"sig\":\"", "\"sig\":\"A", 1)).unwrap();
    assert_eq!(vault.bytes(&installed.digest, &world.floors).unwrap_err().code(), "rejected_signature");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(vault.bytes(&installed.digest, &world.floors).unwrap_err().code(), "unsigned");
}

#[test]
fn a_removed_model_takes_its_signature_along_and_a_signature_alone_is_cleared() {
    let mut world = World::new();
    let factory = factory();
    let installed = world.install(&factory, Some(&signed_by(VENDOR, &statement(&factory, 1)))).unwrap();
    let vault = world.vault(true);
    vault.files.remove(&installed.digest).unwrap();
    assert!(!world.is_empty());
    vault.tidy().unwrap();
    assert!(world.is_empty());
}

#[test]
fn a_vendor_forces_an_epoch_at_the_door_while_what_is_stored_serves_on() {
    let mut world = World::new();
    let (factory, later) = (factory(), trained(Strategy::Head));
    let old = world.install(&factory, Some(&signed_by(VENDOR, &statement(&factory, 1)))).unwrap().digest;
    let forcing = |epoch: u32, sequence: u64, role: Role| BundleStatement {
        epoch,
        role,
        parent: Some(signed::to_wire(&old)),
        extra: Extra::from_iter([(super::super::FLOOR.to_owned(), 7.into())]),
        ..statement(&later, sequence)
    };
    world.install(&later, Some(&signed_by(OPERATOR, &forcing(1, 1, Role::Operator)))).unwrap();
    assert_eq!(world.floors.forced, 0, "only the vendor's word counts");
    world.install(&later, Some(&signed_by(VENDOR, &forcing(2, 2, Role::Vendor)))).unwrap();
    assert_eq!((world.floors.forced, world.floors.epoch), (2, 0), "and not beyond its own epoch");
    let another = trained(Strategy::Tail);
    let older = BundleStatement { epoch: 1, ..statement(&another, 3) };
    let refused = world.install(&another, Some(&signed_by(VENDOR, &older))).unwrap_err();
    assert!(matches!(refused, Refused::OlderEpoch { epoch: 1, floor: 2 }), "{refused}");
    assert!(world.vault(true).bytes(&old, &world.floors).is_ok(), "no device is left without a model by it");
    let text = serde_json::to_string(&world.floors).unwrap();
    assert_eq!(serde_json::from_str::<Floors>(&text).unwrap(), world.floors, "it persists");
    let before = serde_json::to_string(&Floors::default()).unwrap();
    assert!(!before.contains("forced"), "an unforced file is that of the version before: {before}");
}
