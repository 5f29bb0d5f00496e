import PoolDevices
import PoolEngine
import Testing

@testable import PoolDaemon

@Suite struct DiskPaceTests {
    private static let devices = (0..<4).map { DeviceIndex(UInt16($0)) }

    /// One look after which every device has done `operations` that took `ns` each.
    private static func look(_ ns: [UInt64], operations: UInt64 = 100) -> [[DeviceIndex: DevicePace]] {
        let paces = zip(devices, ns).map {
            ($0, DevicePace(operations: operations, totalNs: operations * $1))
        }
        return [Dictionary(uniqueKeysWithValues: paces)]
    }

    @Test func aDiskThatItsPeersLeaveBehindIsNamed() {
        var paces = DiskPaces()
        paces.note(Self.look([200_000, 1_000_000_000, 300_000, 250_000]))
        #expect(
            paces.complaints(Self.devices) == [
                Self.devices[1]: "it takes 1.0 s to answer, the others 250 us"
            ])
    }

    @Test func disksThatAreAllSlowAreNot() {
        var paces = DiskPaces()
        paces.note(Self.look([200_000_000, 300_000_000, 250_000_000, 900_000_000]))
        #expect(paces.complaints(Self.devices).isEmpty)
    }

    @Test func aQuickDiskMayBeManyTimesSlowerThanAQuickerOne() {
        var paces = DiskPaces()
        paces.note(Self.look([20_000, 5_000_000, 20_000, 20_000]))
        #expect(paces.complaints(Self.devices).isEmpty)
    }

    @Test func aFewOperationsSayNothing() {
        var paces = DiskPaces()
        paces.note(Self.look([200_000, 1_000_000_000, 300_000, 250_000], operations: 7))
        #expect(paces.complaints(Self.devices).isEmpty)
    }

    @Test func whatWasSlowAMinuteAgoIsForgotten() {
        var paces = DiskPaces()
        paces.note(Self.look([200_000, 1_000_000_000, 300_000, 250_000]))
        for _ in 0..<11 { paces.note(Self.look([200_000, 200_000, 200_000, 200_000])) }
        #expect(!paces.complaints(Self.devices).isEmpty)
        paces.note(Self.look([200_000, 200_000, 200_000, 200_000]))
        #expect(paces.complaints(Self.devices).isEmpty)
    }

    @Test func aDiskThatDoesNotAnswerIsNamedBeforeItIsDoneWithout() {
        var paces = DiskPaces()
        var look = Self.look([200_000, 200_000, 200_000, 200_000])
        look.append([
            Self.devices[2]: DevicePace(operations: 0, totalNs: 0, oldestNs: 12_345_678_901)
        ])
        paces.note(look)
        #expect(paces.complaints(Self.devices) == [Self.devices[2]: "it has not answered for 12 s"])
    }

    @Test func theOnlyDiskHasNoPeers() {
        var paces = DiskPaces()
        paces.note(Self.look([1_000_000_000]))
        #expect(paces.complaints([Self.devices[0]]).isEmpty)
    }
}
