import Foundation
import PoolControl
import PoolFormat

/// The witness of one machine: the newest configuration version of each pool, in DIR/witness.
///
/// A file holds one line, `poolEpoch sequence`, both decimal. It never goes back: a pool whose
/// disks all show less than it says is an old copy.
struct WitnessStore: Sendable {
    let directory: DaemonDirectory

    /// nil: this witness has never heard of the pool.
    ///
    /// - Throws: where the file is there and unreadable: then nothing may be assumed.
    func read(_ pool: PoolUUID) throws(ControlFailure) -> ConfigurationVersion? {
        let path = directory.witnessFile(pool)
        guard let content = try DurableFile.read(path, limit: 4096) else { return nil }
        let numbers = String(decoding: content, as: UTF8.self)
            .trimmingCharacters(in: .newlines).split(separator: " ").map { UInt64($0) }
        guard numbers.count == 2, let epoch = numbers[0], let sequence = numbers[1] else {
            throw ControlFailure(
                .failed, "the witness file \(path) is damaged",
                hint: "restore it, or remove it to trust the disks alone")
        }
        return ConfigurationVersion(poolEpoch: epoch, sequence: sequence)
    }

    /// Records `version`, durable on return. A version older than the recorded one is refused.
    func record(_ version: ConfigurationVersion, of pool: PoolUUID) throws(ControlFailure) {
        if let known = try read(pool), version < known {
            throw ControlFailure(
                .failed, "the witness knows a newer configuration of the pool",
                hint: "these disks are an old copy; do not use them")
        }
        try DurableFile.replace(
            directory.witnessFile(pool),
            with: Data("\(version.poolEpoch) \(version.sequence)\n".utf8))
    }

    func forget(_ pool: PoolUUID) throws(ControlFailure) {
        try DurableFile.remove(directory.witnessFile(pool))
    }
}
