import PoolDevices
import PoolEngine
import Synchronization

/// Which disks of open pools answer much later than their peers, from what the last minute's looks
/// have seen.
struct DiskPaces: Sendable {
    /// Looks that count.
    private static let kept = 12
    /// Fewer operations say nothing.
    private static let fewest: UInt64 = 8
    /// So many times as long as the median of its peers, and this long at least.
    private static let slowFactor: UInt64 = 8
    private static let slowNs: UInt64 = 20_000_000
    /// An operation this old is told of, before it is too old.
    private static let stuckNs: UInt64 = 5_000_000_000

    private var looks: [DeviceIndex: [DevicePace]] = [:]

    /// - Parameter paces: of each shard, since the last look.
    mutating func note(_ paces: [[DeviceIndex: DevicePace]]) {
        var seen: [DeviceIndex: DevicePace] = [:]
        for shard in paces {
            for (device, pace) in shard { seen[device, default: DevicePace()].add(pace) }
        }
        looks = looks.filter { seen[$0.key] != nil }
        for (device, pace) in seen {
            looks[device, default: []].append(pace)
            if looks[device, default: []].count > Self.kept { looks[device]?.removeFirst() }
        }
    }

    /// What is to be said of the disks of one pool that are slow; nothing of most.
    func complaints(_ devices: [DeviceIndex]) -> [DeviceIndex: String] {
        var complaints: [DeviceIndex: String] = [:]
        let means = Dictionary(
            uniqueKeysWithValues: devices.compactMap { device in
                mean(device).map { (device, $0) }
            })
        for device in devices {
            if let oldest = looks[device]?.last?.oldestNs, oldest >= Self.stuckNs {
                complaints[device] = "it has not answered for \(oldest / 1_000_000_000) s"
                continue
            }
            let peers = means.filter { $0.key != device }.map(\.value).sorted()
            guard let mean = means[device], mean >= Self.slowNs, !peers.isEmpty else { continue }
            let usual = peers[peers.count / 2]
            guard mean / Self.slowFactor >= usual else { continue }
            complaints[device] =
                "it takes \(Self.text(mean)) to answer, the others \(Self.text(usual))"
        }
        return complaints
    }

    private func mean(_ device: DeviceIndex) -> UInt64? {
        var sum = DevicePace()
        for pace in looks[device] ?? [] { sum.add(pace) }
        return sum.operations >= Self.fewest ? sum.meanNs : nil
    }

    /// Two digits are as many as mean something.
    private static func text(_ ns: UInt64) -> String {
        switch ns {
        case 10_000_000_000...: "\(ns / 1_000_000_000) s"
        case 1_000_000_000...: "\(ns / 1_000_000_000).\(ns / 100_000_000 % 10) s"
        case 10_000_000...: "\(ns / 1_000_000) ms"
        case 1_000_000...: "\(ns / 1_000_000).\(ns / 100_000 % 10) ms"
        default: "\(ns / 1_000) us"
        }
    }
}
