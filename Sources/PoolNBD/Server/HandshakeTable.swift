import Glibc
import PoolDevices

/// The clients that have not chosen an export yet, apart from those that have: however many of them
/// say nothing, or say it slowly, another one is let in.
///
/// At most ``NBDLimits/handshakes`` talk; one more ends the one that has been idle for longest.
/// Each has ``NBDLimits/handshakeNs`` from accept to GO, whatever it says meanwhile.
final class HandshakeTable {
    private let ring: Ring
    private let exports: ExportTable
    private var slots: [HandshakeConnection] = []
    private var vacant: [UInt16] = []
    private var ready: [UInt16] = []
    /// Sockets for which there is no slot yet, oldest first.
    private var line: [Int32] = []
    private var talking = 0
    private var accepted: UInt64 = 0
    private var nowNs: UInt64 = 0

    init(ring: Ring, exports: ExportTable) {
        self.ring = ring
        self.exports = exports
    }

    /// No client is left here, those on their way out included.
    var isEmpty: Bool { vacant.count == slots.count && line.isEmpty }

    /// Takes a socket in. Should every slot wait for the kernel, it stands in line.
    func adopt(_ socket: Int32) {
        line.append(socket)
        seat()
        if line.count > NBDLimits.handshakes { _ = Glibc.close(line.removeFirst()) }
    }

    /// Gives slots to those in line, in their order.
    private func seat() {
        var seated = 0
        while seated < line.count, let index = vacantIndex() {
            accepted += 1
            slots[Int(index)].begin(socket: line[seated], serial: accepted)
            talking += 1
            seated += 1
            markReady(slots[Int(index)], index)
            if talking > NBDLimits.handshakes { endIdlest() }
        }
        line.removeFirst(seated)
    }

    private func vacantIndex() -> UInt16? {
        if let index = vacant.popLast() { return index }
        guard slots.count < NBDLimits.handshakes + NBDLimits.endingHandshakes else { return nil }
        let index = UInt16(slots.count)
        slots.append(HandshakeConnection(index: index, ring: ring, exports: exports))
        return index
    }

    private func markReady(_ slot: HandshakeConnection, _ index: UInt16) {
        guard !slot.isReady else { return }
        slot.isReady = true
        ready.append(index)
    }

    /// Takes the completion of a slot's one operation; others are not this table's.
    func complete(_ operation: UInt64, index: Int, generation: UInt32, _ result: Int32) {
        guard let operation = HandshakeConnection.Operation(rawValue: operation),
            index < slots.count
        else { return }
        let slot = slots[index]
        // A slot is reused only after its operation has come back.
        precondition(slot.generation == generation)
        let wasTalking = slot.phase == .talking
        slot.completed(operation, result)
        if wasTalking && slot.phase != .talking { talking -= 1 }
        markReady(slot, UInt16(index))
    }

    /// Does everything that has become possible.
    ///
    /// - Parameter leaving: gets each client that is through.
    func poll(nowNs: UInt64, leaving: (Departure) -> Void) {
        self.nowNs = nowNs
        var next = 0
        while next < ready.count {
            let index = ready[next]
            next += 1
            let slot = slots[Int(index)]
            slot.isReady = false
            let wasTalking = slot.phase == .talking
            let outcome = slot.turn(nowNs: nowNs)
            if wasTalking && slot.phase != .talking { talking -= 1 }
            switch outcome {
            case .stays: break
            case .ended: vacant.append(index)
            case .leaves(let departure):
                vacant.append(index)
                leaving(departure)
            }
            if next == ready.count && !line.isEmpty { seat() }
        }
        ready.removeAll(keepingCapacity: true)
    }

    func endOverdue() {
        for (index, slot) in slots.enumerated() where slot.phase == .talking {
            if nowNs - min(nowNs, slot.acceptedNs) >= NBDLimits.handshakeNs { end(slot, index) }
        }
    }

    /// Makes room for one: where descriptors have run out, too.
    func endIdlest() {
        var idlest: Int?
        for (index, slot) in slots.enumerated() where slot.phase == .talking {
            // Among those of one turn, the one that came first.
            let other = idlest.map { (slots[$0].progressNs, slots[$0].serial) }
            if (slot.progressNs, slot.serial) < other ?? (.max, .max) { idlest = index }
        }
        if let idlest { end(slots[idlest], idlest) }
    }

    func endAll() {
        for socket in line { _ = Glibc.close(socket) }
        line.removeAll()
        for (index, slot) in slots.enumerated() where slot.phase == .talking { end(slot, index) }
    }

    private func end(_ slot: HandshakeConnection, _ index: Int) {
        slot.fail()
        talking -= 1
        // One that has not had its first turn is gone at once: the kernel holds nothing of it.
        switch slot.turn(nowNs: nowNs) {
        case .ended: vacant.append(UInt16(index))
        case .stays, .leaves: break
        }
    }
}
