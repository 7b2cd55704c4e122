use hyper::StatusCode;

use super::*;

fn given(answer: Answer, retry_after: Option<String>) -> Given {
    Given {
        answer,
        retry_after,
        body: "a\u{fe}".as_bytes().to_vec().into(),
    }
}

#[test]
fn an_answer_of_an_application_is_passed_on_as_far_as_the_api_accepts_it() {
    let answered = |status, retry_after: Option<&str>| {
        let answer = Answer::Status(StatusCode::from_u16(status).unwrap());
        let given = given(answer, retry_after.map(str::to_owned));
        let answer = relayed("7".to_owned(), given).unwrap();
        assert_eq!((answer.request.as_str(), answer.body.as_str()), ("7", "a\u{fe}"));
        (answer.status, answer.retry_after)
    };
    assert_eq!(answered(503, Some("30")), (Some(503), Some("30".to_owned())));
    assert_eq!(answered(200, None), (Some(200), None));
    assert_eq!(answered(999, None), (Some(502), None));
    assert_eq!(answered(429, Some("1\t2")), (Some(429), None));
    assert_eq!(answered(429, Some(&"1".repeat(129))), (Some(429), None));
}

#[test]
fn one_that_hangs_is_not_answered_and_one_that_is_dropped_has_no_status() {
    assert_eq!(relayed("7".to_owned(), given(Answer::Hang, None)), None);
    let dropped = relayed("7".to_owned(), given(Answer::Drop, None)).unwrap();
    assert_eq!(dropped.status, None);
}

#[test]
fn the_waits_double_are_shortened_at_random_and_have_a_bound() {
    let of = |tries, random| backoff(tries, random).as_millis();
    let full = [0, 1, 2, 3, 4, 5, u32::MAX].map(|tries| of(tries, 0.0));
    assert_eq!(full, [1000, 2000, 4000, 8000, 10_000, 10_000, 10_000]);
    assert_eq!([of(0, 1.0), of(4, 1.0)], [500, 5000]);
}

#[test]
fn no_further_try_follows_what_no_try_can_help() {
    for was_connected in [false, true] {
        let reason = NotConnected::Final(ended("ep_1"));
        assert_eq!(pause(&reason, was_connected, 0, 0.0), None);
    }
}
