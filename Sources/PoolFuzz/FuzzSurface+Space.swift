import PoolFormat

/// The structures that belong to a space.
extension FuzzSurface {
    /// Input: kind and way in one byte, then the image.
    func runPage(_ reader: inout InputReader) throws(FuzzFinding) -> Bool {
        let how = reader.u8()
        let which = Int(how / 4) % Specimen.pagedKinds.count
        let kind = Specimen.pagedKinds[which]
        let image = reader.image(how: how, specimen: Specimen.pages[which], padded: true)
        let old = image.page
        guard
            (try? MetadataPage.validate(
                old, kind: kind, lineage: Specimen.lineage, index: Specimen.pageIndex)) != nil
        else { return false }
        let copy = Image(PageImage.bytes)
        switch kind {
        case .map: copyMap(old, copy.page)
        case .checksum: copyChecksums(old, copy.page)
        case .dirty, .missed: try copyDirty(old, copy.page)
        case .directory: try copyDirectory(old, copy.page)
        case .group: try copyGroups(old, copy.page)
        case .cacheIndex: copyCache(old, copy.page)
        case .pins, .heat, .root, .journal, .cache: return true
        }
        // Behind the last entry a page may have bytes without a meaning.
        let used =
            switch kind {
            case .checksum: 64 + ChecksumPage.grainsPerPage * Units.blocksPerGrain * 4
            case .group: 64 + GroupPage.recordsPerPage * GroupPage.recordBytes
            default: PageImage.bytes
            }
        let same = unsafe image.readOnly[64..<used].elementsEqual(copy.readOnly[64..<used])
        try promise(same, "a \(kind) page is written back as other bytes")
        return true
    }

    private func copyMap(_ old: PageImage, _ new: PageImage) {
        for index in 0..<MapPage.entriesPerPage {
            MapPage.setEntry(in: new, at: index, MapPage.entry(in: old, at: index))
        }
    }

    private func copyChecksums(_ old: PageImage, _ new: PageImage) {
        for grain in 0..<ChecksumPage.grainsPerPage {
            for block in 0..<Units.blocksPerGrain {
                let value = ChecksumPage.value(in: old, grain: grain, block: block)
                ChecksumPage.setValue(in: new, grain: grain, block: block, value)
            }
        }
    }

    private func copyCache(_ old: PageImage, _ new: PageImage) {
        for slot in 0..<CachePage.slotsPerPage {
            guard let block = CachePage.block(in: old, slot: slot) else { continue }
            CachePage.setBlock(in: new, slot: slot, block)
        }
    }

    private func copyDirty(_ old: PageImage, _ new: PageImage) throws(FuzzFinding) {
        var next = DirtyPage.nextDirty(in: old, from: 0)
        while let region = next {
            try promise(
                region < DirtyPage.regionsPerPage && DirtyPage.isDirty(in: old, region: region),
                "region \(region) is found dirty and is not")
            DirtyPage.set(in: new, region: region, dirty: true)
            next = DirtyPage.nextDirty(in: old, from: region + 1)
        }
    }

    private func copyDirectory(_ old: PageImage, _ new: PageImage) throws(FuzzFinding) {
        for index in 0..<DirectoryPage.entriesPerPage {
            guard let entry = try? DirectoryPage.entry(in: old, at: index) else {
                throw FuzzFinding("entry \(index) of a valid directory page cannot be read")
            }
            DirectoryPage.setEntry(in: new, at: index, entry)
        }
    }

    private func copyGroups(_ old: PageImage, _ new: PageImage) throws(FuzzFinding) {
        for index in 0..<GroupPage.recordsPerPage {
            do throws(FormatError) {
                let record = try GroupPage.record(in: old, at: index)
                try GroupPage.setRecord(in: new, at: index, record)
            } catch {
                throw FuzzFinding("record \(index) of a valid group page: \(error)")
            }
        }
    }

    func runJournal(
        _ reader: inout InputReader, _ memory: FuzzMemory
    ) throws(FuzzFinding) -> Bool {
        let image = reader.image(how: reader.u8(), specimen: Specimen.batch)
        if let toRead = unsafe try? JournalBatch.peek(image.readOnly) {
            try promise(
                toRead % Units.blockBytes == 0 && toRead <= JournalBatch.maximumBytes,
                "a batch asks for \(toRead) bytes")
        }
        guard let records = unsafe records(of: image.readOnly) else { return false }
        try checkFollowed(records.header.sequence)
        let copy = unsafe memory.copy.prefix(JournalBatch.maximumBytes)
        var writer = unsafe BatchWriter(copy)
        for record in records.records {
            try promise(writer.append(record), "the records of a batch do not fit into one")
        }
        let written = writer.finish(records.header).bytes
        let prefix = unsafe UnsafeRawBufferPointer(rebasing: copy[..<written])
        let again = unsafe self.records(of: prefix)
        try promise(
            again?.header == records.header && again?.records == records.records,
            "a batch reads back as another")
        return true
    }

    /// nil where the batch, or one of its records, is refused.
    private func records(
        of bytes: UnsafeRawBufferPointer
    ) -> (header: BatchHeader, records: [JournalRecord])? {
        var records: [JournalRecord] = []
        do throws(FormatError) {
            var decoder = try unsafe BatchDecoder(bytes, lineage: Specimen.lineage)
            while let record = try decoder.next() { records.append(record) }
            return (decoder.header, records)
        } catch {
            return nil
        }
    }
}
