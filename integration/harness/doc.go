// Package harness is what the tests in the folders around it share: a host without CAN devices, containers that are network
// namespaces, the plugin called as a runtime calls it, real runtimes and daemons, stations that send and hear frames, and
// what `ip`, `cangw` and `tc` show. Only tests import it. What one folder alone uses is in that folder.
//
// A function with a testing.T fails the test when it cannot do what it says; one that is called Try returns the error.
package harness
