package event

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"sync"
)

type servicePort struct {
	port  uint16
	proto Proto
}

// services reads the machine's /etc/services once; machines without it have
// no names for ports.
var services = sync.OnceValue(func() map[servicePort]string {
	m := map[servicePort]string{}
	f, err := os.Open("/etc/services")
	if err != nil {
		return m
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line, _, _ := strings.Cut(sc.Text(), "#")
		w := strings.Fields(line)
		if len(w) < 2 {
			continue
		}
		num, proto, _ := strings.Cut(w[1], "/")
		n, err := strconv.ParseUint(num, 10, 16)
		if err != nil {
			continue
		}
		key := servicePort{uint16(n), TCP}
		if proto == "udp" {
			key.proto = UDP
		} else if proto != "tcp" {
			continue
		}
		if _, ok := m[key]; !ok {
			m[key] = w[0]
		}
	}
	return m
})

func serviceName(port uint16, proto Proto) string { return services()[servicePort{port, proto}] }

func appendUint(b []byte, n uint64) []byte { return strconv.AppendUint(b, n, 10) }
