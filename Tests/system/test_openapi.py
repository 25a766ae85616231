"""`API/openapi.yaml`: a document that holds in itself, and a server that keeps to it."""
import datetime
import os
import re

import pytest
import requests
import schemathesis
import yaml
from conftest import ROOT
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from sluice_client import Channel, Rights

PATH = ROOT / "API/openapi.yaml"
DOCUMENT = yaml.load(PATH.read_text(), yaml.CSafeLoader)
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
ANYWHERE = DOCUMENT["x-sluice-problems-anywhere"]
UNLISTED = "INTERNAL_ERROR"


def resolve(node):
    """What a local reference stands for, with what is written beside it."""
    while isinstance(node, dict) and "$ref" in node:
        target = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")]
        node = target
    return node


def operations():
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


def parameters(path, operation):
    shared = DOCUMENT["paths"][path].get("parameters", [])
    return [resolve(parameter) for parameter in [*shared, *operation.get("parameters", [])]]


def status_of(code):
    return DOCUMENT["components"]["examples"][code]["value"]["status"]


def problems(path, method, operation):
    """The codes that an operation can give."""
    codes = {*operation["x-sluice-problems"], *ANYWHERE["always"]}
    if operation["x-sluice-roles"]:
        codes |= set(ANYWHERE["roles"])
    if "requestBody" in operation:
        codes |= set(ANYWHERE["body"])
    if any(parameter["name"] == "Idempotency-Key" for parameter in parameters(path, operation)):
        codes |= set(ANYWHERE["idempotent"])
    if method != "get":
        codes |= set(ANYWHERE["change"])
    return codes


def validator(schema):
    return Draft202012Validator({**DOCUMENT, **schema}, format_checker=Draft202012Validator.FORMAT_CHECKER)


def examples(content):
    """Each example of a media type, with its name."""
    if "example" in content:
        yield "example", content["example"]
    for name, example in content.get("examples", {}).items():
        yield name, resolve(example)["value"]


def request_examples():
    for path, method, operation in operations():
        for media_type, content in resolve(operation.get("requestBody", {})).get("content", {}).items():
            for name, body in examples(content):
                yield pytest.param(path, method, media_type, content["schema"], body,
                                   id=f"{operation['operationId']}-{name}-{media_type}")


OPERATIONS = [pytest.param(*each, id=each[2]["operationId"]) for each in operations()]


# The document by itself


def test_the_document_is_valid():
    validate(DOCUMENT)


def test_operations_are_named_once():
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path, method, operation", OPERATIONS)
def test_an_operation_is_complete(path, method, operation):
    assert operation["summary"] and operation["description"]
    assert set(operation["x-sluice-roles"]) <= {"admin", "observer", "node"}
    assert ("security" in operation) == (not operation["x-sluice-roles"])
    placeholders = set(re.findall(r"{(\w+)}", path))
    assert placeholders == {each["name"] for each in parameters(path, operation) if each["in"] == "path"}
    for parameter in parameters(path, operation):
        assert parameter["description"]


@pytest.mark.parametrize("path, method, operation", OPERATIONS)
def test_refusals_and_problem_codes_are_the_same_set(path, method, operation):
    shown = {}
    for status, answer in operation["responses"].items():
        content = resolve(answer).get("content", {}).get("application/problem+json")
        for name, example in examples(content or {}):
            assert example["code"] == name and str(example["status"]) == status
            shown.setdefault(int(status), set()).add(name)
    codes = problems(path, method, operation)
    assert set(shown) == {status_of(code) for code in codes}
    missing = {code for code in codes if code not in shown[status_of(code)]}
    assert not missing, f"the answers show no example of {missing}"


@pytest.mark.parametrize("path, method, media_type, schema, body", request_examples())
def test_an_example_body_is_accepted_by_its_schema(path, method, media_type, schema, body):
    validator(schema).validate(body)
    with pytest.raises(Exception, match="unexpected"):
        validator(schema).validate({**body, "nobody-knows-this": 1})


def test_examples_of_answers_schemas_and_parameters_fit():
    components = DOCUMENT["components"]
    for answer in [*components["responses"].values(), *(
            resolve(answer) for _, _, operation in operations() for answer in operation["responses"].values())]:
        for content in answer.get("content", {}).values():
            shown = list(examples(content))
            assert shown
            for _, example in shown:
                validator(content["schema"]).validate(example)
        for header in answer.get("headers", {}).values():
            validator(resolve(header)["schema"]).validate(resolve(header)["example"])
    for schema in components["schemas"].values():
        for example in schema.get("examples", []):
            validator(schema).validate(example)
    for parameter in components["parameters"].values():
        if "example" in parameter:
            validator(parameter["schema"]).validate(parameter["example"])


def test_every_problem_code_has_an_example():
    codes = set(DOCUMENT["components"]["schemas"]["ProblemCode"]["enum"])
    assert codes == set(DOCUMENT["components"]["examples"]) | {UNLISTED}


def test_every_component_is_used():
    text = PATH.read_text()
    unused = [
        f"#/components/{kind}/{name}" for kind in ("parameters", "headers", "requestBodies", "responses", "schemas",
                                                   "examples")
        for name in DOCUMENT["components"][kind] if f'"#/components/{kind}/{name}"' not in text]
    # Answers of no operation: a path that is not there, or a method that a path does not have.
    assert sorted(unused) == ["#/components/responses/MethodNotAllowed", "#/components/responses/NoSuchRoute"]


# The server against the document


class World:
    """A server with one of everything that the document's examples name, and clients in every role."""

    def __init__(self, server, folder):
        self.server = server
        self.folder = folder
        self.channel = None
        self.clients = {"admin": server.api(server.data / "admin"), "observer": server.api(self.observer()),
                        "nobody": server.api()}
        self.restore()

    def close(self):
        self.admin.delete("/v1/volumes/slow")
        if self.channel:
            self.channel.close()
        for client in self.clients.values():
            client.close()

    @property
    def admin(self):
        return self.clients["admin"]

    def observer(self):
        """A folder with a certificate in the role that nothing hands out yet, made with the authority's own key."""
        authority = self.server.data / "authority"
        issuer = x509.load_pem_x509_certificate((authority / "ca.pem").read_bytes())
        signer = serialization.load_pem_private_key((authority / "ca.key.pem").read_bytes(), None)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "observer"),
                          x509.NameAttribute(NameOID.COMMON_NAME, "watcher")])
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = x509.CertificateBuilder().subject_name(name).issuer_name(issuer.subject).public_key(
            key.public_key()).serial_number(x509.random_serial_number()).not_valid_before(
            now - datetime.timedelta(minutes=1)).not_valid_after(now + datetime.timedelta(hours=1)).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False).sign(signer, hashes.SHA256())
        folder = self.folder / "observer"
        folder.mkdir()
        (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.write_key(folder, key)
        return folder

    @staticmethod
    def write_key(folder, key):
        (folder / "key.pem").write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))

    def make(self, path, **fields):
        answer = self.admin.post(path, json=fields)
        assert answer.status_code in (201, 409), answer.text
        return answer

    def restore(self):
        """Makes again what a test may have taken away."""
        self.admin.delete("/v1/server/drain")
        # Clients are sent only to where the certificate names.
        names = DOCUMENT["paths"]["/v1/server"]["patch"]["requestBody"]["content"]["application/merge-patch+json"]["examples"]["names"]
        if not set(names["value"]["addresses"]) <= set(self.admin.get("/v1/server").json()["addresses"]):
            assert self.admin.patch("/v1/server", json=names["value"]).status_code == 200
        self.make("/v1/volumes", name="disk-1", size="64MiB")
        self.admin.patch("/v1/volumes/disk-1", json={"accessMode": "single-writer"})
        for marker in self.admin.get("/v1/volumes/disk-1/markers").json()["items"]:
            if marker["name"] != "monday":
                self.admin.delete(f"/v1/volumes/disk-1/markers/{marker['name']}")
        self.make("/v1/volumes/disk-1/markers", name="monday")
        alice = DOCUMENT["paths"]["/v1/admins"]["post"]["requestBody"]["content"]["application/json"]["examples"]["alice"]
        self.make("/v1/admins", **alice["value"])
        node = self.make("/v1/nodes", name="web-1")
        if "node" not in self.clients or self.clients["node"].get("/v1/nodes/web-1").status_code != 200:
            self.enrol(node)
        self.admin.delete("/v1/grants/web-1-disk-1")
        self.make("/v1/grants", name="web-1-disk-1", node="web-1", resource="volume/disk-1",
                  rights=["read", "write", "discard", "flush"])

    def enrol(self, node):
        if node.status_code == 409:
            node = self.admin.post("/v1/nodes/web-1/token")
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "web-1")])
        csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
        with self.server.api() as nobody:
            issued = nobody.post("/v1/nodes/web-1/enroll", json={
                "token": node.json()["token"], "csr": csr.public_bytes(serialization.Encoding.PEM).decode()})
        assert issued.status_code == 201, issued.text
        (self.folder / "ca.pem").write_text(issued.json()["ca"])
        (self.folder / "cert.pem").write_text(issued.json()["certificate"])
        self.write_key(self.folder, key)
        if "node" in self.clients:
            self.clients.pop("node").close()
        self.clients["node"] = self.server.api(self.folder)

    def identifier(self, path):
        """The id of something that is there, of the kind that the path is about."""
        if "operations" in path:
            return self.operation()
        return self.identifiers()["sessions" in path]

    def operation(self):
        """The making of a volume, which takes an hour."""
        self.make("/v1/pools", name="slow", driver="fault", settings={"driver": "file", "rules": "prepare: delay 100ms"})
        if self.admin.get("/v1/volumes/slow").status_code == 404:
            made = self.admin.post("/v1/volumes", json={"name": "slow", "size": "512GiB", "pool": "slow"})
            assert made.status_code == 202, made.text
        return self.admin.get("/v1/volumes/slow").json()["operation"]

    def identifiers(self):
        """A capability and a session that are there."""
        issued = self.clients["node"].post("/v1/capabilities", json={"resource": "volume/disk-1"})
        assert issued.status_code == 201, issued.text
        if self.channel:
            self.channel.close()
        self.channel = Channel(
            self.server.channel_address, cafile=str(self.folder / "ca.pem"),
            certfile=str(self.folder / "cert.pem"), keyfile=str(self.folder / "key.pem"))
        self.channel.open(issued.json()["token"], Rights.READ)
        return issued.json()["id"], self.channel.session.hex()


@pytest.fixture(scope="module")
def world(shared_server, tmp_path_factory):
    there = World(shared_server, tmp_path_factory.mktemp("node-web-1"))
    yield there
    there.close()


def concrete(world, path):
    """The path with the names of the examples."""
    item = DOCUMENT["paths"][path]
    for parameter in map(resolve, item.get("parameters", [])):
        value = parameter["example"]
        if parameter["name"] == "id":
            value = world.identifier(path)
        path = path.replace(f"{{{parameter['name']}}}", value)
    return path


def check_answer(answer, path, method, operation):
    """The answer is one that the document has for the operation."""
    assert str(answer.status_code) in operation["responses"], f"{answer.status_code}: {answer.text}"
    documented = resolve(operation["responses"][str(answer.status_code)])
    for name, header in documented.get("headers", {}).items():
        assert name in answer.headers or not resolve(header).get("required"), name
        if name in answer.headers:
            validator(resolve(header)["schema"]).validate(answer.headers[name])
    content = documented.get("content", {})
    if not content:
        assert not answer.content
        return
    media_type = answer.headers["content-type"].split(";")[0]
    assert media_type in content
    if not media_type.endswith("json"):
        return
    validator(content[media_type]["schema"]).validate(answer.json())
    if media_type == "application/problem+json":
        problem = answer.json()
        assert problem["code"] in problems(path, method, operation), answer.text
        assert problem["status"] == answer.status_code == status_of(problem["code"])
        assert problem["title"] == DOCUMENT["components"]["examples"][problem["code"]]["value"]["title"]


GETS = [pytest.param(*each, id=each[2]["operationId"]) for each in operations() if each[1] == "get"]


@pytest.mark.parametrize("path, method, operation", GETS)
def test_every_documented_get_answers(world, path, method, operation):
    world.restore()
    target = concrete(world, path)
    for role in ("admin", "observer", "node", "nobody"):
        answer = world.clients[role].get(target)
        check_answer(answer, path, method, operation)
        if role in operation["x-sluice-roles"] or not operation["x-sluice-roles"]:
            # A node is not told of pools and nodes that are not its own; what the examples name is.
            assert answer.status_code == 200, f"{role}: {answer.text}"
        else:
            assert answer.status_code == (401 if role == "nobody" else 403)


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_other_methods_are_refused_with_those_that_are_allowed(world, path):
    documented = {method.upper() for method in METHODS if method in DOCUMENT["paths"][path]}
    # The answer to HEAD is that to GET without its body (RFC 9110 §9.3.2); the document need not say so.
    documented |= {"HEAD"} if "GET" in documented else set()
    target = re.sub(r"{\w+}", "x", path)
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"):
        if method not in documented:
            answer = world.admin.request(method, target)
            assert answer.status_code == 405
            assert set(answer.headers["allow"].split(", ")) == documented
            if method != "HEAD":
                assert answer.json()["code"] == "METHOD_NOT_ALLOWED"


def test_an_unknown_path_is_told_so(world):
    for target in ("/", "/v1", "/v1/nothing", "/v1/volumes/a/b"):
        answer = world.admin.get(target)
        assert (answer.status_code, answer.json()["code"]) == (404, "NO_SUCH_ROUTE")


@pytest.mark.parametrize("role, size", [("admin", 1 << 20), ("nobody", 64 << 10)])
def test_a_body_or_header_beyond_the_limit_is_refused(world, role, size):
    path, method = "/v1/nodes/{name}/enroll", "post"
    operation = DOCUMENT["paths"][path][method]
    for length, code in ((size, "INVALID_JSON"), (size + 1, "BODY_TOO_LARGE")):
        answer = world.clients[role].post("/v1/nodes/web-1/enroll", content=b"x" * length)
        check_answer(answer, path, method, operation)
        assert answer.json()["code"] == code
    answer = world.clients[role].post("/v1/nodes/web-1/enroll", headers={"x-long": "x" * (16 << 10)})
    check_answer(answer, path, method, operation)
    assert answer.json()["code"] == "HEADER_TOO_LARGE"


load_all_checks()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
CONFORMANCE = CHECKS.get_by_names([
    "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance"])
# Enough for each kind of value and each field to be wrong in turn; making them up takes fifty times as long as the server's
# answer, so that the long campaign is for `make soak`.
FACTOR = float(os.environ.get("SLUICE_FUZZ_API", "1"))
CASES = {role: max(3, int(count * FACTOR)) for role, count in {"nobody": 3, "observer": 3, "node": 6, "admin": 12}.items()}


# What HTTP/2 cannot carry (RFC 9113 §8.2.1) is refused with a stream reset, before any operation is reached.
FIELD = re.compile(rb"([\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")


def send(client, case):
    """Sends a case over HTTP/2, byte for byte as schemathesis makes it for its own HTTP/1.1; None if it cannot be."""
    prepared = requests.Request(**case.as_transport_kwargs(base_url="https://test")).prepare()
    headers = [(name.encode("latin-1"), value if isinstance(value, bytes) else value.encode("latin-1"))
               for name, value in prepared.headers.items()
               if name.lower() not in ("host", "connection", "content-length", "transfer-encoding")]
    if not all(FIELD.fullmatch(value) for _, value in headers):
        return None
    return client.request(
        prepared.method, case.operation.path.split("{")[0], content=prepared.body, headers=headers,
        extensions={"target": prepared.path_url.encode()})


# Each process has a server of its own to ask: the operations are dealt out to so many.
SHARES = 4
DEALT = [pytest.param(*each, id=each[2]["operationId"], marks=pytest.mark.xdist_group(f"openapi-{number % SHARES}"))
         for number, each in enumerate(operations())]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("path, method, operation", DEALT)
def test_schemathesis_finds_no_answer_that_is_not_documented(world, path, method, operation):
    generated = SCHEMA[path][method.upper()]
    roles = operation["x-sluice-roles"]
    cases = {}
    for mode in GenerationMode:
        # Whoever may not ask at all is told so before what is asked is looked at.
        asking = [role for role in CASES if not mode.is_negative or (
            (not roles or role in roles) and (parameters(path, operation) or "requestBody" in operation))]
        if not asking:
            continue
        made = []

        @given(case=generated.as_strategy(generation_mode=mode))
        @settings(max_examples=max(CASES[role] for role in asking), derandomize=True, database=None, deadline=None,
                  phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        def generate(case):
            made.append(case)

        generate()
        for role in asking:
            cases.setdefault(role, []).extend(made[:CASES[role]])
    for role, asked in cases.items():
        world.restore()
        names = {each["name"]: each["example"] for each in parameters(path, operation) if each["in"] == "path"}
        if "id" in names:
            names["id"] = world.identifier(path)
        for number, case in enumerate(asked):
            if case.path_parameters and number % 2:
                case.path_parameters.update(names)  # What is there, beside what is not.
            check_case(world.clients[role], role, case, path, method, operation)


def check_case(client, role, case, path, method, operation):
    """Sends a case as that role, and holds the answer to the document."""
    answer = send(client, case)
    if answer is None:
        return
    if "{" in path and answer.status_code == 404 and answer.json()["code"] == "NO_SUCH_ROUTE" or answer.status_code == 405:
        return  # The generated name is empty or has a slash: it is another path.
    case.validate_response(answer, checks=CONFORMANCE)
    check_answer(answer, path, method, operation)
    assert answer.status_code not in (500, 503), answer.text
    roles = operation["x-sluice-roles"]
    if roles and role not in roles:
        assert answer.status_code in (400, 401 if role == "nobody" else 403), answer.text


# Requests whose outcome depends on what is there, with the examples of the document


@pytest.mark.parametrize("path, method, media_type, schema, body", request_examples())
def test_an_example_body_is_taken_by_the_server(world, path, method, media_type, schema, body):
    world.restore()
    operation = DOCUMENT["paths"][path][method]
    target = concrete(world, path)
    role = "admin" if "admin" in operation["x-sluice-roles"] or not operation["x-sluice-roles"] else "node"
    if operation["operationId"] == "issueCapability" and "node" not in body:
        role = "node"
    answer = world.clients[role].request(method.upper(), target, json=body, headers={"content-type": media_type})
    check_answer(answer, path, method, operation)
    expected = {"enrollNode": (403,), "inspectCapability": (404,), "renewCertificate": (422,), "restartPool": (200, 422),
                "upgradeDriver": (200, 422)}.get(operation["operationId"], (200, 201, 202, 409))
    # The examples of enrolment and of an inspection hold tokens of another server; an inline driver has no host.
    assert answer.status_code in expected, answer.text
