//! The Open Inference Protocol v2 over HTTP as its specification words it: every endpoint, every form of error.
//!
//! Source: `specification/protocol/inference_rest.md` of the Open Inference Protocol.
use hone_tests::agent::{Agent, Device};
use hone_tests::http::{Answer, tcp_with};
use hone_tests::world;
use serde_json::{Value, json};

/// Name of a member, `?` if it may be absent, and what it must be.
type Member = (&'static str, fn(&Value) -> bool);

/// `$metadata_server_response`, `$metadata_model_response` and so on: the members and their types, `?` for optional ones.
fn has_form(what: &str, value: &Value, members: &[Member]) {
    let object = value.as_object().unwrap_or_else(|| panic!("{what} is no object: {value}"));
    for (name, is) in members {
        let (name, optional) = name.strip_suffix('?').map_or((*name, false), |name| (name, true));
        match object.get(name) {
            None => assert!(optional, "{what} lacks `{name}`: {value}"),
            Some(member) => assert!(is(member), "`{name}` of {what} is of another type: {value}"),
        }
    }
    for name in object.keys() {
        let known = members.iter().any(|(member, _)| member.trim_end_matches('?') == name);
        assert!(known, "{what} has `{name}`, which the specification does not know: {value}");
    }
}

fn texts(value: &Value) -> bool {
    value.as_array().is_some_and(|texts| texts.iter().all(Value::is_string))
}

fn metadata_tensors(value: &Value) -> bool {
    value.as_array().is_some_and(|tensors| {
        for tensor in tensors {
            has_form(
                "a metadata tensor",
                tensor,
                &[("name", Value::is_string), ("datatype", is_datatype), ("shape", is_shape)],
            );
        }
        !tensors.is_empty()
    })
}

fn is_datatype(value: &Value) -> bool {
    let known = [
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
        "BYTES",
    ];
    value.as_str().is_some_and(|name| known.contains(&name))
}

fn is_shape(value: &Value) -> bool {
    value.as_array().is_some_and(|sizes| sizes.iter().all(|size| size.as_i64().is_some_and(|size| size >= -1)))
}

/// `$response_output`: as many values as the shape says, of the datatype it says.
fn is_output(tensor: &Value) {
    let any: fn(&Value) -> bool = |_| true;
    let members: [Member; 5] = [
        ("name", Value::is_string),
        ("shape", is_shape),
        ("datatype", is_datatype),
        ("parameters?", Value::is_object),
        ("data", any),
    ];
    has_form("an output", tensor, &members);
    let sizes = tensor["shape"].as_array().unwrap().iter().map(|size| size.as_u64().unwrap());
    let data = tensor["data"].as_array().unwrap();
    assert_eq!(data.len() as u64, sizes.product::<u64>(), "{tensor}");
    let is: fn(&Value) -> bool = if tensor["datatype"] == "BYTES" { Value::is_string } else { Value::is_number };
    assert!(data.iter().all(is), "{tensor}");
}

/// `$inference_error_response` with its status; hone adds `code` and `field`.
fn is_error(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("application/json"), "{}", answer.head);
    let text = answer.json()["error"].as_str().map(str::to_owned).unwrap_or_default();
    assert!(!text.is_empty(), "{}", answer.text);
}

fn agent(device: &Device) -> Agent {
    device.start(Some(&world::train(device.path(), "base", 1, false)))
}

fn column(name: &str, values: &[f64]) -> Value {
    json!({"name": name, "datatype": "FP64", "shape": [values.len(), 1], "data": values})
}

/// What is told of a model.
const METADATA: [Member; 5] = [
    ("name", Value::is_string),
    ("versions?", texts),
    ("platform", Value::is_string),
    ("inputs", metadata_tensors),
    ("outputs", metadata_tensors),
];

#[test]
fn health_and_metadata_have_the_form_of_the_specification() {
    let device = Device::new();
    let agent = agent(&device);
    let get = |path: &str| agent.tcp("GET", path, "");
    has_form("health/live", &get("/v2/health/live").json(), &[("live", Value::is_boolean)]);
    has_form("health/ready", &get("/v2/health/ready").json(), &[("live", Value::is_boolean)]);
    assert_eq!((get("/v2/health/live").status, get("/v2/health/ready").status), (200, 200));
    // The text of the specification says `v2`, its OpenAPI file `/v2/`.
    for path in ["/v2", "/v2/"] {
        has_form(
            "the server",
            &get(path).json(),
            &[("name", Value::is_string), ("version", Value::is_string), ("extensions", texts)],
        );
    }
    assert_eq!(get("/v2").header("content-type"), Some("application/json"));
    assert_eq!(get("/v2").json()["extensions"], json!([]), "none is offered: {}", get("/v2").text);
    let version = agent.champion();
    for path in ["/v2/models/main".to_owned(), format!("/v2/models/main/versions/{version}")] {
        let model = get(&path).json();
        has_form("a model", &model, &METADATA);
        assert_eq!((&model["name"], &model["versions"]), (&json!("main"), &json!([version])));
        let ready = get(&format!("{path}/ready"));
        assert_eq!(ready.status, 200);
        has_form("model ready", &ready.json(), &[("name", Value::is_string), ("ready", |ready| *ready == json!(true))]);
    }
    for path in
        ["/v2/models/other", "/v2/models/other/ready", "/v2/models/main/versions/7", "/v2/models/main/versions/7/ready"]
    {
        is_error(&get(path), 404);
    }
    is_error(&get("/v2/nothing"), 404);
    let reads = ["", "/health/live", "/health/ready", "/models/main", "/models/main/ready", "/models/labels"];
    for path in reads.map(|path| format!("/v2{path}")) {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let answer = agent.tcp(method, &path, "{}");
            is_error(&answer, 405);
            assert!(answer.header("allow").is_some_and(|allowed| allowed.contains("GET")), "{path}: {}", answer.head);
        }
        let head = agent.tcp("HEAD", &path, "");
        assert_eq!((head.status, head.text.as_str()), (200, ""), "{path}");
    }
    for path in [
        "/v2/models/main/infer".to_owned(),
        "/v2/models/labels/infer".to_owned(),
        format!("/v2/models/main/versions/{version}/infer"),
    ] {
        let answer = get(&path);
        is_error(&answer, 405);
        assert_eq!(answer.header("allow"), Some("POST"), "{path}");
    }
}

#[test]
fn what_a_client_leaves_out_it_may_write_as_null_and_a_datatype_of_the_specification_is_understood() {
    let device = Device::new();
    let agent = agent(&device);
    let tensor = |name: &str, datatype: &str, data: Value| json!({"name": name, "shape": [1], "datatype": datatype, "data": data, "parameters": null});
    let said = |inputs: Value| {
        let body = json!({"id": null, "parameters": null, "outputs": null, "inputs": inputs});
        let answer = agent.tcp("POST", "/v2/models/main/infer", &body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        answer.json()["outputs"].clone()
    };
    let first = said(json!([
        tensor("a", "FP32", json!([1])),
        tensor("b", "FP32", json!([1])),
        tensor("c", "FP32", json!([0]))
    ]));
    for datatype in ["UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP64"] {
        let again = said(json!([
            tensor("a", datatype, json!([1])),
            tensor("b", datatype, json!([1])),
            tensor("c", datatype, json!([0]))
        ]));
        assert_eq!((&again[0], &again[1]), (&first[0], &first[1]), "{datatype}");
    }
    let again = said(json!([
        tensor("a", "BOOL", json!([true])),
        tensor("b", "BOOL", json!([true])),
        tensor("c", "BOOL", json!([false]))
    ]));
    assert_eq!(again[0], first[0], "BOOL");
}

#[test]
fn a_body_in_a_form_that_is_not_offered_is_refused_by_its_name() {
    let device = Device::new();
    let agent = agent(&device);
    let version = agent.champion();
    let json = json!({"inputs": [
        {"name": "input", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}
    ]})
    .to_string();
    let binary: Vec<u8> = [json.as_bytes(), &[0; 12]].concat();
    let headers =
        format!("content-type: application/octet-stream\r\nInference-Header-Content-Length: {}\r\n", json.len());
    for path in [
        "/v2/models/main/infer".to_owned(),
        "/v2/models/labels/infer".to_owned(),
        format!("/v2/models/main/versions/{version}/infer"),
    ] {
        let answer = tcp_with(&agent.address, "POST", &path, &headers, &binary).expect("an answer");
        is_error(&answer, 400);
        assert!(answer.text.contains("binary") && answer.text.contains("`data`"), "{}", answer.text);
        // The same without the header: the tensor itself says that its values are elsewhere.
        let answer = agent.tcp("POST", &path, &json);
        is_error(&answer, 400);
        assert!(answer.text.contains("binary") && answer.json()["field"] == "input", "{}", answer.text);
        let answer =
            tcp_with(&agent.address, "POST", &path, "content-encoding: gzip\r\n", &[31, 139, 8, 0]).expect("an answer");
        is_error(&answer, 415);
        assert!(answer.text.contains("gzip"), "{}", answer.text);
    }
    let refused = agent.status()["requests"]["refused"].clone();
    assert_eq!((&refused["binary_tensors"], &refused["content_encoding"]), (&json!(3), &json!(3)), "{refused}");
    // An answer as binary data may be wished for; without the extension it comes as JSON.
    let mut wish = world::request([1.0, 1.0, 0.0]);
    wish["parameters"] = json!({"binary_data_output": true});
    let answer = tcp_with(
        &agent.address,
        "POST",
        "/v2/models/main/infer",
        "content-encoding: identity\r\n",
        wish.to_string().as_bytes(),
    )
    .expect("an answer");
    assert_eq!((answer.status, answer.header("inference-header-content-length")), (200, None), "{}", answer.text);
    answer.json()["outputs"].as_array().unwrap().iter().for_each(is_output);
}

#[test]
fn an_inference_gives_back_the_id_the_wanted_outputs_and_one_answer_per_row() {
    let device = Device::new();
    let agent = agent(&device);
    let version = agent.champion();
    let inputs = json!([column("a", &[1.0, -1.0]), column("b", &[1.0, -1.0]), column("c", &[0.0, 0.0])]);
    // Parameters are allowed everywhere, unknown ones are ignored.
    let body = json!({
        "id": "call-7",
        "parameters": {"source": "press-7", "priority": 3, "binary_data_output": false},
        "inputs": inputs,
        "outputs": [{"name": "label", "parameters": {"binary_data": false}}, {"name": "probabilities"}],
    });
    for path in ["/v2/models/main/infer".to_owned(), format!("/v2/models/main/versions/{version}/infer")] {
        let answer = agent.tcp("POST", &path, &body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text);
        let answer = answer.json();
        let members: [Member; 5] = [
            ("model_name", Value::is_string),
            ("model_version?", Value::is_string),
            ("id?", Value::is_string),
            ("parameters?", |parameters| {
                let plain = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
                parameters.as_object().is_some_and(|parameters| parameters.values().all(plain))
            }),
            ("outputs", Value::is_array),
        ];
        has_form("an inference", &answer, &members);
        assert_eq!(
            (&answer["id"], &answer["model_name"], &answer["model_version"]),
            (&json!("call-7"), &json!("main"), &json!(version))
        );
        let outputs = answer["outputs"].as_array().unwrap();
        outputs.iter().for_each(is_output);
        let mut names: Vec<_> = outputs.iter().map(|output| output["name"].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["label", "probabilities"], "the wanted ones alone");
        let label = outputs.iter().find(|output| output["name"] == "label").unwrap();
        assert_eq!(label["data"], json!(["high", "low"]));
    }
    // Nested and flat data mean the same, in row-major order.
    let matrix =
        |data: Value| json!({"inputs": [{"name": "input", "shape": [2, 3], "datatype": "FP32", "data": data}]});
    let said = |body: Value| agent.tcp("POST", "/v2/models/main/infer", &body.to_string()).json()["outputs"].clone();
    let labels = |outputs: &Value| {
        outputs.as_array().unwrap().iter().find(|output| output["name"] == "label").unwrap()["data"].clone()
    };
    let nested = said(matrix(json!([[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]])));
    assert_eq!(labels(&nested), labels(&said(matrix(json!([1.0, 1.0, 0.0, -1.0, -1.0, 0.0])))));
    nested.as_array().unwrap().iter().for_each(is_output);
    // Without an id there is none in the answer.
    let without = agent.tcp("POST", "/v2/models/main/infer", &json!({"inputs": inputs}).to_string()).json();
    assert!(without.get("id").is_none_or(Value::is_string), "{without}");
}

#[test]
fn labels_are_told_to_a_model_of_their_own() {
    let device = Device::new();
    let agent = agent(&device);
    has_form("the metadata", &agent.tcp("GET", "/v2/models/labels", "").json(), &METADATA);
    let ready = agent.tcp("GET", "/v2/models/labels/ready", "");
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)));
    let good = world::request([1.0, 1.0, 0.0]).to_string();
    let answer = agent.tcp("POST", "/v2/models/main/infer", &good).json();
    let id = answer["parameters"]["record_id"].clone();
    let tell = |ids: &[&Value], truths: &[&str]| {
        let tensor =
            |name: &str, data: Value| json!({"name": name, "shape": [ids.len()], "datatype": "BYTES", "data": data});
        let inputs = [tensor("record_id", json!(ids)), tensor("label", json!(truths))];
        agent.tcp("POST", "/v2/models/labels/infer", &json!({"id": "call-8", "inputs": inputs}).to_string())
    };
    let answer =
        tell(&[&id, &id, &json!("01ARZ3NDEKTSV4RRFFQ69G5FAV"), &id], &["low", "high", "low", "sideways"]).json();
    assert_eq!((&answer["id"], &answer["model_name"]), (&json!("call-8"), &json!("labels")));
    answer["outputs"].as_array().unwrap().iter().for_each(is_output);
    assert_eq!(answer["outputs"][0]["data"], json!(["stored", "conflict", "unknown", "refused"]), "{answer}");
    let status = agent.status();
    assert_eq!((&status["records"]["labels"], &status["requests"]["refused"]["unknown_class"]), (&json!(1), &json!(1)));
    for body in
        ["", "{}", r#"{"inputs":[]}"#, r#"{"inputs":[{"name":"label","shape":[1],"datatype":"BYTES","data":["low"]}]}"#]
    {
        is_error(&agent.tcp("POST", "/v2/models/labels/infer", body), 400);
    }
}

#[test]
fn what_is_wrong_is_answered_with_a_status_and_an_error_in_words() {
    let device = Device::new();
    let agent = agent(&device);
    let post = |body: &str| agent.tcp("POST", "/v2/models/main/infer", body);
    let rows = |tensor: Value| json!({"inputs": [tensor]}).to_string();
    let tensor = |name: &str, shape: Value, datatype: &str, data: Value| {
        rows(json!({"name": name, "shape": shape, "datatype": datatype, "data": data}))
    };
    for body in [
        String::new(),
        "{".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        json!({"inputs": []}).to_string(),
        json!({"inputs": 7}).to_string(),
        rows(json!({"name": "input", "shape": [3], "data": [1, 2, 3]})),
        rows(json!({"name": "input", "shape": [3], "datatype": "FP32"})),
        tensor("input", json!([3]), "FP99", json!([1, 2, 3])),
        tensor("input", json!([4]), "FP32", json!([1, 2, 3, 4])),
        tensor("input", json!([1, 3]), "FP32", json!([1, 2])),
        tensor("input", json!([-1, 3]), "FP32", json!([1, 2, 3])),
        tensor("input", json!([0, 3]), "FP32", json!([])),
        tensor("input", json!([3]), "FP32", json!([1, 2, "x"])),
        tensor("nobody", json!([1]), "FP32", json!([1])),
        json!({"id": 7, "inputs": [column("a", &[1.0])]}).to_string(),
        json!({"inputs": [column("a", &[1.0]), column("b", &[1.0, 2.0]), column("c", &[1.0])]}).to_string(),
        json!({"inputs": [column("a", &[1.0]), column("b", &[1.0]), column("c", &[1.0])], "outputs": [{"name": "x"}]})
            .to_string(),
    ] {
        is_error(&post(&body), 400);
    }
    let good = world::request([1.0, 1.0, 0.0]).to_string();
    is_error(&agent.tcp("POST", "/v2/models/other/infer", &good), 404);
    for version in ["1", &"0".repeat(64)] {
        is_error(&agent.tcp("POST", &format!("/v2/models/main/versions/{version}/infer"), &good), 404);
        is_error(&agent.tcp("GET", &format!("/v2/models/main/versions/{version}"), ""), 404);
    }
    let huge = format!("{{\"id\":\"{}\"}}", "x".repeat(9 << 20));
    is_error(&post(&huge), 413);
    assert_eq!(post(&good).status, 200, "and it goes on");
    let records = agent.socket("GET", "/v1/records", "").json()["records"].clone();
    assert_eq!(records.as_array().map_or(0, Vec::len), 1, "nothing refused is on record");
}

#[test]
fn without_a_model_the_server_lives_and_is_not_ready() {
    let device = Device::new();
    let agent = device.start(None);
    let get = |path: &str| agent.tcp("GET", path, "");
    assert_eq!((get("/v2").status, get("/v2/health/live").status, get("/v2/health/ready").status), (200, 200, 503));
    assert_eq!(
        (get("/v2/models/main/ready").status, get("/v2/models/main/ready").json()["ready"].clone()),
        (503, json!(false))
    );
    is_error(&get("/v2/models/main"), 503);
    is_error(&agent.tcp("POST", "/v2/models/main/infer", &world::request([1.0, 1.0, 0.0]).to_string()), 503);
}
