import Core
import Testing

@testable import SluiceClient

/// What is advised where the control API refuses.
@Suite struct ClientErrorAdviceTests {
    @Test(arguments: [
        ("BUSY", true), ("NOT_READY", true), ("DEVICE_FAILED", false), ("CATALOG_FAILED", false),
    ])
    func tryingAgainIsAdvisedOnlyWhereItHelps(code: String, helps: Bool) {
        let error = ClientError.of(status: 503, body: Array(#"{"code":"\#(code)","detail":"x"}"#.utf8))
        #expect((error.advice != nil) == helps)
        #expect(error.kind == (helps ? .busy : .device))
    }
}
