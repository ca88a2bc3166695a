//! A watched folder: every change arrives, and nothing that was not meant.

use std::path::Path;
use std::time::Duration;

use lb_userspace::model::Object;
use lb_userspace::source::file::{FileSource, Host, Snapshot, UnreadableFolder};

const DEADLINE: Duration = Duration::from_secs(20);

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: 10.96.0.1\n  ports: [{{port: 80}}]\n"
    )
}

fn write(folder: &Path, file: &str, text: &str) {
    std::fs::write(folder.join(file), text).unwrap();
}

fn open(folder: &Path) -> FileSource {
    let host = Host { name: "here".to_owned(), addresses: Vec::new() };
    FileSource::open(folder, host).unwrap()
}

fn services(snapshot: &Snapshot) -> Vec<&str> {
    let services = snapshot.objects.iter().filter_map(|object| match object {
        Object::Service(service) => Some(service.name.name()),
        _ => None,
    });
    services.collect()
}

/// Waits until the folder says `done`; every state on the way must be `allowed`.
async fn until(
    source: &mut FileSource,
    allowed: impl Fn(&Snapshot) -> bool,
    done: impl Fn(&Snapshot) -> bool,
) {
    let reached = tokio::time::timeout(DEADLINE, async {
        while !done(source.snapshot()) {
            let snapshot = source.changed().await;
            assert!(allowed(snapshot), "{snapshot:#?}");
        }
    });
    assert!(reached.await.is_ok(), "not within {DEADLINE:?}: {:#?}", source.snapshot());
}

#[tokio::test]
async fn files_that_come_change_and_go_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = open(folder.path());
    assert!(services(source.snapshot()).is_empty());
    write(folder.path(), "a.yaml", &service("a"));
    until(&mut source, |_| true, |snapshot| services(snapshot) == ["a"]).await;
    write(folder.path(), "a.yaml", &service("b"));
    until(&mut source, |_| true, |snapshot| services(snapshot) == ["b"]).await;
    std::fs::rename(folder.path().join("a.yaml"), folder.path().join("z.yaml")).unwrap();
    write(folder.path(), "c.yaml", &service("c"));
    until(&mut source, |_| true, |snapshot| services(snapshot) == ["c", "b"]).await;
    std::fs::remove_file(folder.path().join("z.yaml")).unwrap();
    until(&mut source, |_| true, |snapshot| services(snapshot) == ["c"]).await;
}

#[tokio::test]
async fn a_file_counts_once_its_writer_has_closed_it() {
    use std::io::Write as _;
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.yaml", &(service("a") + "---\n" + &service("b")));
    let mut source = open(folder.path());
    let mut file = std::fs::File::create(folder.path().join("a.yaml")).unwrap();
    file.write_all((service("a") + "---\n").as_bytes()).unwrap();
    write(folder.path(), "c.yaml", &service("c"));
    let whole = |snapshot: &Snapshot| services(snapshot).starts_with(&["a", "b"]);
    until(&mut source, whole, |snapshot| services(snapshot) == ["a", "b", "c"]).await;
    file.write_all(service("d").as_bytes()).unwrap();
    drop(file);
    until(&mut source, |_| true, |snapshot| services(snapshot) == ["a", "d", "c"]).await;
}

#[tokio::test]
async fn a_folder_deleted_while_running_keeps_its_last_state_until_it_is_back() {
    let around = tempfile::tempdir().unwrap();
    let folder = around.path().join("manifests");
    std::fs::create_dir(&folder).unwrap();
    write(&folder, "a.yaml", &service("a"));
    write(&folder, "b.yaml", &service("b"));
    let mut source = open(&folder);
    std::fs::remove_dir_all(&folder).unwrap();
    let kept = |snapshot: &Snapshot| services(snapshot) == ["a", "b"];
    until(&mut source, kept, Snapshot::has_problems).await;
    let message = source.snapshot().findings[0].to_string();
    assert!(message.contains("stays in force"), "{message}");
    std::fs::create_dir(&folder).unwrap();
    write(&folder, "c.yaml", &service("c"));
    until(&mut source, |_| true, |snapshot| services(snapshot) == ["c"] && !snapshot.has_problems()).await;
    write(&folder, "d.yaml", &service("d"));
    until(&mut source, |_| true, |snapshot| services(snapshot) == ["c", "d"]).await;
}

#[tokio::test]
async fn links_that_are_swapped_as_in_a_config_map_are_followed() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (generation, name) in [("..1", "a"), ("..2", "b")] {
        std::fs::create_dir(path.join(generation)).unwrap();
        write(&path.join(generation), "web.yaml", &service(name));
    }
    symlink("..1", path.join("..data")).unwrap();
    symlink("..data/web.yaml", path.join("web.yaml")).unwrap();
    let mut source = open(path);
    assert_eq!(services(source.snapshot()), ["a"]);
    symlink("..2", path.join("..new")).unwrap();
    std::fs::rename(path.join("..new"), path.join("..data")).unwrap();
    until(&mut source, |_| true, |snapshot| services(snapshot) == ["b"]).await;
}

#[test]
fn a_missing_folder_and_a_file_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path| FileSource::open(path, Host::default()).err();
    assert!(matches!(refused(&folder.path().join("none")), Some(UnreadableFolder::Missing(_))));
    write(folder.path(), "a.yaml", "");
    assert!(matches!(refused(&folder.path().join("a.yaml")), Some(UnreadableFolder::NotAFolder(_))));
}
