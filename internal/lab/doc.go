// Package lab builds small clusters out of network namespaces: nodes, pods and
// clients, joined over netlink, for tests and for the demo.
//
// It never touches the network of the machine it runs on. Every link, address,
// route and rule is inside a namespace that the lab made. The namespaces have no
// name: only this process holds them, so they vanish with it, also when it is
// killed. Nothing is written below /run, and no program is needed.
//
//	func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }
//
//	func TestReach(t *testing.T) {
//		l := lab.ForTest(t, lab.Options{})
//		node1, node2 := l.MustNode("node1"), l.MustNode("node2")
//		a, b := node1.MustPod("a"), node2.MustPod("b")
//		ln, err := b.Listen("tcp", "[::]:80")
//		conn, err := a.DialContext(ctx, "tcp", net.JoinHostPort(b.IPv4().String(), "80"))
//		out, err := node1.Command(ctx, "nft", "list", "ruleset").Output()
//	}
//
// The network, with IPv4 and IPv6 everywhere:
//
//	client 10.250.0.11 ─┐                     ┌─ node1 10.240.0.11 ─┬─ pod 10.244.1.10
//	                    ├─ router (its own ns)┤                     └─ pod 10.244.1.11
//	client 10.250.0.12 ─┘                     └─ node2 10.240.0.12 ─── pod 10.244.2.10
//
// Pods hang on a veth of their own and are routed, not bridged: everything that
// a pod sends, to a pod of the same node and to itself by a Service too, passes
// the node's IP stack and its rules. The router knows the nodes and the clients
// and neither pods nor Services, as a data centre's does.
//
// [Enter], called first thing in main or TestMain, moves the process into PID,
// mount and network namespaces of its own, and into a user namespace where it
// lacks the right, so that an ordinary user can run the lab, and every process
// that was started in it ends with it.
package lab
