//! Tests with a healthy broker.

use std::time::Duration;

use lapin::types::{AMQPValue, ShortString};
use producer::{Error, EventId, NotReady, Serialized};

use crate::rig::{Message, event, on_broker};

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_event_lies_in_the_queue_byte_for_byte_with_its_properties() {
    on_broker(async |rig| {
        rig.declare().await;
        let producer = rig.producer();
        producer.ready(Duration::from_secs(10)).await.unwrap();
        let event = event(1).with_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(producer.publish(&event).await.unwrap(), event.id);

        let [message] = rig.take_all().await.try_into().ok().unwrap();
        assert_eq!(message.body, event.serialize().body);
        assert_eq!(message.exchange, rig.topology.events_exchange());
        assert_eq!(message.routing_key, "research.started");
        assert_eq!(message.id(), event.id.as_str());
        let properties = message.properties;
        assert_eq!(
            properties.kind().as_ref().map(ShortString::as_str),
            Some("research.started")
        );
        assert_eq!(
            properties.content_type().as_ref().map(ShortString::as_str),
            Some("application/json")
        );
        assert_eq!(*properties.delivery_mode(), Some(2));
        let headers = properties.headers().as_ref().unwrap().inner();
        let traceparent = AMQPValue::LongString(event.traceparent.unwrap().into());
        assert_eq!(headers.get("traceparent"), Some(&traceparent));
        producer.shutdown().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_published_as_it_is_and_without_an_id_gets_one_from_its_bytes() {
    on_broker(async |rig| {
        rig.declare().await;
        let producer = rig.producer();
        let body = " {\"event\" : \"lead.created\",\n\"data\":{\"x\":1.0e2}, \"unknown\":[],\"timestamp\":1703123456789,\
                    \"lead_id\":\"l\u{e9}\",\"project_id\":\"p\",\"organization_id\":\"\\u006f\"}\n";
        let derived = producer.publish_json(&Serialized::new(body)).await.unwrap();
        assert_eq!(derived, EventId::from_body(body.as_bytes()));
        let given = Serialized {
            message_id: Some("mine-1".to_owned()),
            ..Serialized::new(body)
        };
        assert_eq!(producer.publish_json(&given).await.unwrap().as_str(), "mine-1");

        let messages = rig.take_all().await;
        let ids: Vec<_> = messages.iter().map(Message::id).collect();
        assert_eq!(ids, [derived.as_str(), "mine-1"]);
        assert!(messages.iter().all(|message| message.body == body.as_bytes()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_event_is_the_callers_error_and_never_reaches_the_queue() {
    on_broker(async |rig| {
        rig.declare().await;
        let producer = rig.producer();
        let good = event(1);
        let bad_id = event(2).with_id(EventId::new("no spaces"));
        let mut bad_lead = event(3);
        bad_lead.lead.id = producer::LeadId::new("");
        let batch = [bad_id, good.clone(), bad_lead.clone()];
        let results = producer.publish_batch(&batch).await;
        let reasons: Vec<_> = results.iter().map(|result| reason(result.as_ref())).collect();
        assert_eq!(reasons, ["bad_message_id", "published", "bad_field"]);
        assert_eq!(results[2].as_ref().unwrap_err().event_id(), &bad_lead.id);

        let not_json = producer.publish_json(&Serialized::new("{")).await;
        assert_eq!(reason(not_json.as_ref()), "not_json");
        assert!(!not_json.unwrap_err().is_transient());

        let [message] = rig.take_all().await.try_into().ok().unwrap();
        assert_eq!(message.id(), good.id.as_str());
    })
    .await;
}

fn reason(result: Result<&EventId, &Error>) -> &'static str {
    match result {
        Ok(_) => "published",
        Err(Error::Invalid { source, .. }) => source.reason(),
        Err(_) => "another error",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_queue_an_event_is_unroutable_and_its_error_says_what_to_do() {
    on_broker(async |rig| {
        rig.declare_exchange_only().await;
        let producer = rig.producer();
        let event = event(1);
        let error = producer.publish(&event).await.unwrap_err();
        assert!(matches!(error, Error::Unroutable { .. }), "{error}");
        let text = error.to_string();
        for part in [
            event.id.as_str(),
            "topology declare",
            &rig.topology.events_exchange(),
        ] {
            assert!(text.contains(part), "{text}");
        }

        rig.declare().await;
        assert_eq!(producer.publish(&event).await.unwrap(), event.id);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_exchange_an_event_is_unroutable_and_once_it_is_declared_the_same_producer_publishes() {
    on_broker(async |rig| {
        let producer = rig.producer();
        let event = event(1);
        let error = producer.publish(&event).await.unwrap_err();
        assert!(matches!(error, Error::Unroutable { .. }), "{error}");
        assert!(error.to_string().contains(event.id.as_str()), "{error}");

        rig.declare().await;
        assert_eq!(producer.publish(&event).await.unwrap(), event.id);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_a_thousand_arrives_in_order() {
    on_broker(async |rig| {
        rig.declare().await;
        let producer = rig.producer();
        let events: Vec<_> = (0..1000).map(event).collect();
        let published = producer.publish_batch(&events).await;
        let published: Vec<_> = published.into_iter().map(Result::unwrap).collect();
        let ids: Vec<_> = events.iter().map(|event| event.id.clone()).collect();
        assert_eq!(published, ids);
        let arrived: Vec<_> = rig
            .take_all()
            .await
            .iter()
            .map(|message| EventId::new(message.id()))
            .collect();
        assert_eq!(arrived, ids);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_published_at_once_by_many_tasks_all_arrive() {
    on_broker(async |rig| {
        rig.declare().await;
        let producer = rig.producer();
        let tasks: Vec<_> = (0..100)
            .map(|n| {
                let producer = producer.clone();
                tokio::spawn(async move { producer.publish(&event(n)).await.unwrap() })
            })
            .collect();
        let mut published = Vec::new();
        for task in tasks {
            published.push(task.await.unwrap().to_string());
        }
        let mut arrived: Vec<_> = rig
            .take_all()
            .await
            .iter()
            .map(|message| message.id().to_owned())
            .collect();
        published.sort_unstable();
        arrived.sort_unstable();
        assert_eq!(arrived, published);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_an_event_and_takes_it_once_there_is_room() {
    on_broker(async |rig| {
        rig.declare_queue_for_one().await;
        let producer = rig.producer();
        producer.publish(&event(1)).await.unwrap();
        let refused = event(2);
        let error = producer.publish(&refused).await.unwrap_err();
        assert!(matches!(error, Error::Nacked { .. }), "{error}");
        assert!(
            error.is_transient() && error.to_string().contains(refused.id.as_str()),
            "{error}"
        );

        assert_eq!(rig.take_all().await.len(), 1);
        assert_eq!(producer.publish(&refused).await.unwrap(), refused.id);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_shutdown_what_was_confirmed_is_there_and_clones_are_refused() {
    on_broker(async |rig| {
        rig.declare().await;
        let producer = rig.producer();
        let clone = producer.clone();
        let publishing = tokio::spawn({
            let producer = producer.clone();
            async move {
                producer
                    .publish_batch(&(0..2000).map(event).collect::<Vec<_>>())
                    .await
            }
        });
        producer.publish(&event(1)).await.unwrap();
        producer.shutdown().await;

        let results = publishing.await.unwrap();
        let confirmed = results.iter().filter(|result| result.is_ok()).count();
        let closed = |error: &Error| matches!(error, Error::Closed { .. });
        assert!(
            results
                .iter()
                .all(|result| result.as_ref().err().is_none_or(closed))
        );
        assert_eq!(rig.take_all().await.len(), confirmed + 1);
        assert!(closed(&clone.publish(&event(2)).await.unwrap_err()));
        assert_eq!(clone.ready(Duration::from_secs(10)).await, Err(NotReady::Closed));
    })
    .await;
}
