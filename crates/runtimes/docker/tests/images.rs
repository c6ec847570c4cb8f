//! Any image works unchanged.

mod support;

use clarateach_ids::{Generation, SeatKey, SeatNumber, WorkshopId};
use clarateach_runtime::conformance::{Harness, desired, request, until_ready};
use clarateach_runtime::{DesiredSeat, ImageRef, Runtime, RuntimeError};
use clarateach_testkit::docker::TinyImage;
use clarateach_testkit::leaks::run;
use http::Method;

fn seat(harness: &dyn Harness, image: &str) -> DesiredSeat {
    let key = SeatKey { workshop: WorkshopId::random(), seat: SeatNumber::new(1).expect("a number") };
    let mut seat = desired(harness, &key, 1);
    seat.image = ImageRef(image.to_owned());
    seat
}

/// Makes a seat of the image, in which the learner can write and read a file, and removes it.
async fn works(
    test: &str,
    image: TinyImage,
    look: impl AsyncFnOnce(&support::Docker, &dyn Runtime, &DesiredSeat),
) {
    let Some(harness) = support::docker(test).await else { return };
    let tag = format!("clarateach-test-{}", test.replace('_', "-"));
    image.import(&tag).expect("a tiny image");
    let runtime = harness.open().await;
    let mut seat = seat(&harness, &tag);
    seat.env.insert("WHO".to_owned(), "the workshop".to_owned());
    runtime.apply(seat.clone()).await.expect("apply");
    until_ready(&*runtime, &seat.key, 1).await;
    let body = r#"{"content":"mine"}"#.to_owned();
    let (status, answer) = request(&*runtime, &seat, Method::PUT, "/files/by-the-learner", body).await;
    assert!(status.is_success(), "{status} {}", String::from_utf8_lossy(&answer));
    look(&harness, &*runtime, &seat).await;
    runtime.remove(&seat.key, Generation(1)).await.expect("remove");
    assert_eq!(harness.leftovers().await, Vec::<String>::new());
    let _ = run("docker", &["rmi", &tag]);
}

async fn file(runtime: &dyn Runtime, seat: &DesiredSeat, path: &str) -> String {
    let (status, body) = request(runtime, seat, Method::GET, &format!("/files/{path}"), String::new()).await;
    assert!(status.is_success(), "{path}: {status}");
    String::from_utf8_lossy(&body).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_holds_nothing_at_all() {
    let image = TinyImage { applets: &[], changes: &[], files: &[("etc/hostname", "")] };
    works("one_that_holds_nothing_at_all", image, async |_, _, _| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_with_a_user_an_entrypoint_and_a_working_directory() {
    let image = TinyImage {
        changes: &[
            "USER 65534",
            "ENTRYPOINT [\"/bin/false\"]",
            "CMD [\"--never\"]",
            "WORKDIR /opt/app",
            "ENV WHO=image PATH=/opt/tools:/bin GREETING=hello",
            "ENV CLARATEACH_LISTEN=tcp:127.0.0.1:1 CLARATEACH_SHELL=/nowhere CLARATEACH_ROOT=/etc",
            "VOLUME /data",
            "EXPOSE 80",
        ],
        files: &[
            ("opt/app/readme.txt", "came with the image"),
            ("opt/app/deeper/inner.txt", "so did this"),
            ("tmp/", ""),
        ],
        ..TinyImage::BUSYBOX
    };
    works("one_with_a_user_an_entrypoint_and_a_working_directory", image, async |harness, runtime, seat| {
        assert!(file(runtime, seat, "readme.txt").await.contains("came with the image"));
        let body = r#"{"content":"changed"}"#.to_owned();
        let (status, _) = request(runtime, seat, Method::PUT, "/files/deeper/inner.txt", body).await;
        assert!(status.is_success(), "the learner can't change what came with the image: {status}");
        let container = harness.container(&seat.key);
        let env = run("docker", &["inspect", "--format", "{{join .Config.Env \"\\n\"}}", &container]);
        for line in ["WHO=the workshop", "PATH=/opt/tools:/bin", "GREETING=hello", "CLARATEACH_ROOT=/opt/app"]
        {
            assert!(env.lines().any(|variable| variable == line), "{line} is not in {env}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_works_in_root_s_home() {
    let image = TinyImage {
        changes: &["WORKDIR /root"],
        files: &[("root/.profile", "# root's"), ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")],
        ..TinyImage::BUSYBOX
    };
    works("one_that_works_in_root_s_home", image, async |_, runtime, seat| {
        assert!(file(runtime, seat, ".profile").await.contains("root's"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_works_in_the_root_directory() {
    let image = TinyImage { changes: &["WORKDIR /"], ..TinyImage::BUSYBOX };
    works("one_that_works_in_the_root_directory", image, async |harness, _, seat| {
        assert_eq!(harness.run_in(&seat.key, "cat /workspace/by-the-learner"), (true, "mine".to_owned()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_are_not_there_are_refused_in_words() {
    let test = "images_that_are_not_there_are_refused_in_words";
    let Some(harness) = support::docker(test).await else { return };
    let runtime = harness.open().await;
    for name in ["127.0.0.1:1/nobody/nothing:never", "../../etc", "a b", "", "x?y=z"] {
        let outcome = runtime.resolve(&ImageRef(name.to_owned())).await;
        let Err(RuntimeError::ImageNotFound { message, .. }) = outcome else { panic!("{name}: {outcome:?}") };
        assert!(!message.is_empty());
    }
    let here = ImageRef(support::BUSYBOX.to_owned());
    assert_eq!(runtime.resolve(&here).await.unwrap(), here);

    // A seat of such an image fails with the reason, and can be removed.
    let seat = seat(&harness, "127.0.0.1:1/nobody/nothing:never");
    runtime.apply(seat.clone()).await.unwrap();
    let reason =
        clarateach_testkit::wait_for("the failure", std::time::Duration::from_secs(20), async || {
            runtime.observe().await.unwrap().into_iter().find_map(|environment| environment.reason)
        });
    assert_eq!(reason.await.code, "IMAGE_NOT_FOUND");
    runtime.remove(&seat.key, Generation(1)).await.unwrap();
    assert_eq!(harness.leftovers().await, Vec::<String>::new());
}
