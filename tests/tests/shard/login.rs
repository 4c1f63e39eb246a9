//! How channels and sessions begin.

use srpt_tests::world::{Login, Options, World};

#[test]
fn one_login() {
    let mut world = World::new(&Options::default());
    let port = world.login(0, &Login::of(1));
    drop(port);
    world.assert_home();
}
