import CFuzzer
import Glibc
import PoolFuzz

// poolfuzz --list | poolfuzz SURFACE [libFuzzer's arguments]

if CommandLine.arguments.dropFirst().first == "--list" {
    for surface in FuzzSurface.allCases { print(surface.rawValue) }
    exit(0)
}
guard let name = CommandLine.arguments.dropFirst().first,
    let surface = FuzzSurface(rawValue: name)
else {
    print("usage: poolfuzz --list | poolfuzz SURFACE [-runs=N] [CORPUS...]")
    exit(64)
}
unsafe Target.surface = surface

var count = CommandLine.argc - 1
// The surface's name takes the place of the program's.
var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? =
    unsafe CommandLine.unsafeArgv + 1
exit(unsafe LLVMFuzzerRunDriver(&count, &arguments) { unsafe Target.run($0, $1) })
