//! Phases and conditions by tables.

use serde_json::json;

use super::*;

fn end(code: i32) -> Terminated {
    let at = Timestamp::UNIX_EPOCH;
    Terminated::of(
        &Ended {
            code,
            signal: None,
            at,
        },
        at,
        "x",
    )
}

fn record(state: State) -> Record {
    let ready = matches!(state, State::Running(_));
    Record {
        state,
        ready,
        started: ready,
        ..Record::waiting("")
    }
}

#[test]
fn the_phase_follows_the_containers() {
    let run = || record(State::Running(Timestamp::UNIX_EPOCH));
    let over = |code| record(State::Terminated(end(code)));
    let backoff = || Record {
        last: Some(end(1)),
        ..Record::waiting("CrashLoopBackOff")
    };
    let cases = [
        ("Always", None, vec![None], "Pending"),
        ("Always", None, vec![Some(run())], "Running"),
        ("Always", None, vec![Some(run()), None], "Pending"),
        ("Always", None, vec![Some(backoff())], "Running"),
        ("Always", None, vec![Some(over(0))], "Running"),
        ("Never", None, vec![Some(over(0))], "Succeeded"),
        ("Never", None, vec![Some(over(0)), Some(over(3))], "Failed"),
        ("Never", None, vec![Some(over(3)), Some(run())], "Running"),
        ("OnFailure", None, vec![Some(over(3))], "Running"),
        ("OnFailure", None, vec![Some(over(0))], "Succeeded"),
        ("Always", Some(run()), vec![None], "Pending"),
        ("Never", Some(over(1)), vec![None], "Failed"),
        ("Always", Some(over(1)), vec![None], "Pending"),
        ("Always", Some(over(0)), vec![Some(run())], "Running"),
    ];
    for (policy, init, containers, expected) in cases {
        let names: Vec<_> = (0..containers.len())
            .map(|i| json!({"name": format!("c{i}")}))
            .collect();
        let init_names = if init.is_some() {
            json!([{"name": "i"}])
        } else {
            json!([])
        };
        let spec: PodSpec = serde_json::from_value(
            json!({"restartPolicy": policy, "containers": names, "initContainers": init_names}),
        )
        .unwrap();
        let mut progress = Progress::default();
        progress
            .containers
            .extend(init.map(|r| ("i".to_owned(), r)));
        progress.containers.extend(
            containers
                .into_iter()
                .enumerate()
                .filter_map(|(i, r)| Some((format!("c{i}"), r?))),
        );
        assert_eq!(phase(&spec, &progress), expected, "{policy} {progress:?}");
    }
}

#[test]
fn readiness_names_the_containers_that_lack_it_and_keeps_transition_times() {
    let mut pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}
    }))
    .unwrap();
    let mut progress = Progress {
        ips: vec!["10.244.0.2".parse().unwrap()],
        ..Progress::default()
    };
    progress
        .containers
        .insert("a".into(), record(State::Running(Timestamp::UNIX_EPOCH)));
    let early = Timestamp::from_second(100).unwrap();
    let status = status(&pod, &progress, &[], early);
    let ready = |s: &PodStatus| {
        s.conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "Ready")
            .cloned()
            .unwrap()
    };
    assert_eq!(
        ready(&status).message.as_deref(),
        Some("containers with unready status: [b]")
    );
    assert_eq!(
        status.container_statuses.as_ref().unwrap()[1]
            .state
            .as_ref()
            .unwrap()
            .waiting
            .as_ref()
            .unwrap()
            .reason
            .as_deref(),
        Some("PodInitializing")
    );
    pod.status = Some(status);
    let late = Timestamp::from_second(200).unwrap();
    let again = super::status(&pod, &progress, &[], late);
    assert_eq!(ready(&again).last_transition_time, Some(Time(early)));
    progress
        .containers
        .insert("b".into(), record(State::Running(Timestamp::UNIX_EPOCH)));
    let done = super::status(&pod, &progress, &[], late);
    assert_eq!(
        (
            ready(&done).status.as_str(),
            ready(&done).last_transition_time
        ),
        ("True", Some(Time(late)))
    );
}
