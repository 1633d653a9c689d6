//! The demo pages of `examples/web` in a real browser: what each claims is measured. The checks are in `demo.js`.

use crate::browser;
use crate::clients::DEMO_DRIVER;
use crate::support::server::Server;

fn check(page: &str, flags: &[&str]) {
    let Some(chromium) = browser::chromium() else { return };
    let server = Server::start(&[&["--demo"], flags].concat());
    let url = format!("http://{}", server.data);
    println!("{}", DEMO_DRIVER.run(&[chromium, &url, &server.control_url(""), page]));
}

#[test]
fn the_index_links_each_page_and_its_source() {
    check("index", &[]);
}

#[test]
fn prices_are_new_for_a_page_that_reads_slowly() {
    check("prices", &[]);
}

#[test]
fn the_chat_has_one_order_and_shows_who_is_here() {
    check("chat", &[]);
}

#[test]
fn the_map_has_the_servers_state_after_a_time_offline() {
    check("map", &[]);
}

#[test]
fn a_stroke_appears_once_in_every_tab() {
    check("board", &[]);
}

#[test]
fn the_match_has_no_gap_after_a_cut() {
    check("match", &[]);
}

#[test]
fn no_sample_of_a_heart_is_missing() {
    check("heart", &["--deflate", "on"]);
}
