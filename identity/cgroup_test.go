package identity

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// id64 returns an id as runtimes make them.
func id64(n int) string { return fmt.Sprintf("%064x", 0xabc000+n) }

// The paths that runtimes and systemd make, as /proc/PID/cgroup shows them below
// the root of a hierarchy. ID and POD stand for the digits.
func TestParseCgroup(t *testing.T) {
	id, other := "4c01db0b339c0d4b2f9a7a1c5d6e8f9012a3b4c5d6e7f8091a2b3c4d5e6f7a8b", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	const uid = "0b1c6a52-3c5f-4b3e-9d4e-2a7b8c9d0e1f"
	subst := strings.NewReplacer("OTHER", other, "ID", id, "POD_", strings.ReplaceAll(uid, "-", "_"), "POD", uid)
	docker := Place{Runtime: "docker", ID: id}
	for _, tt := range []struct {
		name string
		path string
		want Place
	}{
		// docker
		{"docker, cgroupfs driver (v1, and v2 without systemd)", "/docker/ID", docker},
		{"docker, systemd driver", "/system.slice/docker-ID.scope", Place{Runtime: "docker", ID: id, Unit: "docker-ID.scope"}},
		{"docker, a systemd within", "/system.slice/docker-ID.scope/system.slice/nginx.service", Place{Runtime: "docker", ID: id, Unit: "docker-ID.scope"}},
		{"docker, v2, own cgroup namespace", "/docker/ID/init", docker},
		{"docker, rootless", "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope", Place{Runtime: "docker", ID: id, UserID: "1000", Unit: "docker-ID.scope"}},
		{"docker, --cgroup-parent", "/build-jobs/ID", Place{Runtime: "docker", ID: id, Guess: true}},
		{"docker, GitHub runner", "/actions_job/ID", Place{Runtime: "docker", ID: id, Guess: true}},
		{"docker, AWS ECS", "/ecs/5d3f1e9a7c2b4d6f8091a2b3c4d5e6f7/ID", Place{Runtime: "docker", ID: id, Guess: true}},
		{"docker, systemd's notation with the cgroupfs driver", "/system.slice/containerd.service/system.slice:docker:ID", Place{Runtime: "docker", ID: id, Unit: "containerd.service"}},
		{"docker in docker: the outer one", "/docker/ID/docker/OTHER", docker},
		{"kind, cgroupfs: the node is the container", "/docker/ID/kubelet/kubepods/burstable/podPOD/OTHER", docker},
		{"kind, systemd", "/system.slice/docker-ID.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podPOD_.slice/cri-containerd-OTHER.scope", Place{Runtime: "docker", ID: id, Unit: "docker-ID.scope"}},
		{"the docker daemon itself", "/system.slice/docker.service", Place{Unit: "docker.service"}},
		{"docker build, cgroupfs", "/docker/buildkit/ajw24cylx2bbqixg2lztwjl7l", Place{Runtime: "buildkit", ID: "ajw24cylx2bbqixg2lztwjl7l"}},
		{"docker build, systemd", "/system.slice/docker-ajw24cylx2bbqixg2lztwjl7l.scope", Place{Runtime: "buildkit", ID: "ajw24cylx2bbqixg2lztwjl7l", Unit: "docker-ajw24cylx2bbqixg2lztwjl7l.scope"}},

		// containerd
		{"ctr run", "/default/web", Place{Runtime: "containerd", ID: "web", Namespace: "default"}},
		{"ctr -n k8s.io run", "/k8s.io/ID", Place{Runtime: "containerd", ID: id, Namespace: "k8s.io"}},
		{"nerdctl, cgroupfs", "/default/ID", Place{Runtime: "containerd", ID: id, Namespace: "default"}},
		{"nerdctl, systemd", "/system.slice/nerdctl-ID.scope", Place{Runtime: "containerd", ID: id, Namespace: "default", Unit: "nerdctl-ID.scope"}},
		{"kubernetes, systemd driver", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPOD_.slice/cri-containerd-ID.scope",
			Place{Runtime: "containerd", ID: id, PodUID: uid, Unit: "cri-containerd-ID.scope"}},
		{"kubernetes, guaranteed", "/kubepods.slice/kubepods-podPOD_.slice/cri-containerd-ID.scope",
			Place{Runtime: "containerd", ID: id, PodUID: uid, Unit: "cri-containerd-ID.scope"}},
		{"kubernetes, cgroupfs driver", "/kubepods/besteffort/podPOD/ID", Place{Runtime: "containerd", ID: id, PodUID: uid, Guess: true}},
		{"kubernetes, guaranteed, cgroupfs", "/kubepods/podPOD/ID", Place{Runtime: "containerd", ID: id, PodUID: uid, Guess: true}},
		{"kubernetes below a root of its own", "/k8s/node1/kubepods/burstable/podPOD/ID", Place{Runtime: "containerd", ID: id, PodUID: uid, Guess: true}},
		{"a static pod's uid is a hash", "/kubepods/burstable/pod8f3a1c9b7e5d2046af18c3b9d7e6f504/ID", Place{Runtime: "containerd", ID: id, PodUID: "8f3a1c9b7e5d2046af18c3b9d7e6f504", Guess: true}},
		{"kubernetes, drivers that disagree", "/system.slice/containerd.service/kubepods-burstable-podPOD_.slice:cri-containerd:ID",
			Place{Runtime: "containerd", ID: id, PodUID: uid, Unit: "containerd.service"}},
		{"a systemd within a pod", "/kubepods.slice/kubepods-podPOD_.slice/cri-containerd-ID.scope/init.scope",
			Place{Runtime: "containerd", ID: id, PodUID: uid, Unit: "cri-containerd-ID.scope"}},
		{"a pod without its container", "/kubepods.slice/kubepods-podPOD_.slice", Place{PodUID: uid}},
		{"the kubelet itself", "/system.slice/kubelet.service", Place{Unit: "kubelet.service"}},

		// CRI-O
		{"cri-o", "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podPOD_.slice/crio-ID.scope", Place{Runtime: "cri-o", ID: id, PodUID: uid, Unit: "crio-ID.scope"}},
		{"cri-o with crun", "/kubepods.slice/kubepods-podPOD_.slice/crio-ID.scope/container", Place{Runtime: "cri-o", ID: id, PodUID: uid, Unit: "crio-ID.scope"}},
		{"cri-o, cgroupfs", "/kubepods/burstable/podPOD/crio-ID", Place{Runtime: "cri-o", ID: id, PodUID: uid}},
		{"cri-o's monitor is not the container", "/kubepods.slice/kubepods-podPOD_.slice/crio-conmon-ID.scope", Place{PodUID: uid, Unit: "crio-conmon-ID.scope"}},
		{"cri-o's monitor, cgroupfs", "/kubepods/podPOD/crio-conmon-ID", Place{PodUID: uid}},
		{"minikube: cri-o in docker", "/docker/OTHER/kubepods.slice/kubepods-podPOD_.slice/crio-ID.scope", Place{Runtime: "docker", ID: other}},

		// podman
		{"podman, systemd, v1", "/machine.slice/libpod-ID.scope", Place{Runtime: "podman", ID: id, Unit: "libpod-ID.scope"}},
		{"podman, systemd, v2", "/machine.slice/libpod-ID.scope/container", Place{Runtime: "podman", ID: id, Unit: "libpod-ID.scope"}},
		{"podman, cgroupfs", "/libpod_parent/libpod-ID", Place{Runtime: "podman", ID: id}},
		{"podman, pod, cgroupfs: the pod's id comes first", "/libpod_parent/OTHER/libpod-ID", Place{Runtime: "podman", ID: id}},
		{"podman, pod, systemd", "/machine.slice/machine-libpod_pod_OTHER.slice/libpod-ID.scope/container", Place{Runtime: "podman", ID: id, Unit: "libpod-ID.scope"}},
		{"podman, rootless", "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container", Place{Runtime: "podman", ID: id, UserID: "1000", Unit: "libpod-ID.scope"}},
		{"podman, rootless, in a user unit (quadlet)", "/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/libpod-payload-ID", Place{Runtime: "podman", ID: id, UserID: "1000", Unit: "web.service"}},
		{"podman, in a unit (quadlet)", "/system.slice/web.service/libpod-payload-ID", Place{Runtime: "podman", ID: id, Unit: "web.service"}},
		{"podman's monitor in a unit", "/system.slice/web.service/supervisor", Place{Unit: "web.service"}},
		{"podman's monitor is not the container", "/machine.slice/libpod-conmon-ID.scope", Place{Unit: "libpod-conmon-ID.scope"}},
		{"podman's monitor, cgroupfs", "/libpod_parent/conmon", Place{}},
		{"podman's monitor, cgroupfs, by id", "/libpod_parent/libpod-conmon-ID", Place{}},
		{"podman, a systemd within", "/machine.slice/libpod-ID.scope/container/system.slice/dbus.service", Place{Runtime: "podman", ID: id, Unit: "libpod-ID.scope"}},

		// lxc, systemd-nspawn, virtual machines
		{"lxc", "/lxc.payload.web/system.slice/ssh.service", Place{Runtime: "lxc", ID: "web"}},
		{"lxc before version 4", "/lxc/web/init.scope", Place{Runtime: "lxc", ID: "web"}},
		{"lxc's monitor", "/lxc.monitor.web", Place{}},
		{"docker in lxc: the outer one", "/lxc.payload.web/docker/ID", Place{Runtime: "lxc", ID: "web"}},
		{"systemd-nspawn as a service", `/machine.slice/systemd-nspawn@my\x2dbox.service/payload/init.scope`, Place{Runtime: "systemd-nspawn", ID: "my-box", Unit: `systemd-nspawn@my\x2dbox.service`}},
		{"systemd-nspawn's own process", "/machine.slice/systemd-nspawn@box.service/supervisor", Place{Unit: "systemd-nspawn@box.service"}},
		{"systemd-nspawn by hand", `/machine.slice/machine-my\x2dbox.scope/payload`, Place{Runtime: "systemd-nspawn", ID: "my-box", Unit: `machine-my\x2dbox.scope`}},
		{"a virtual machine is no container", `/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator`, Place{Unit: `machine-qemu\x2d1\x2dvm.scope`}},

		// systemd
		{"the root", "/", Place{}},
		{"nothing", "", Place{}},
		{"init", "/init.scope", Place{Unit: "init.scope"}},
		{"a service", "/system.slice/ssh.service", Place{Unit: "ssh.service"}},
		{"a service's own subgroup", "/system.slice/postgresql.service/workers", Place{Unit: "postgresql.service"}},
		{"an instance", `/system.slice/system-serial\x2dgetty.slice/serial-getty@ttyS0.service`, Place{Unit: "serial-getty@ttyS0.service"}},
		{"an escaped name", `/system.slice/dev-disk-by\x2duuid-1.swap`, Place{Unit: `dev-disk-by\x2duuid-1.swap`}},
		{"a name that clashes with a controller's", "/system.slice/_cpu.service", Place{Unit: "cpu.service"}},
		{"a session", "/user.slice/user-1000.slice/session-3.scope", Place{Unit: "session-3.scope"}},
		{"a user's manager", "/user.slice/user-1000.slice/user@1000.service/init.scope", Place{Unit: "init.scope"}},
		{"a user's service", "/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox.service", Place{Unit: "app-firefox.service"}},
		{"a user's scope", `/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-org.x-1234.scope`, Place{Unit: "app-gnome-org.x-1234.scope"}},
		{"a slice is no unit of processes", "/system.slice", Place{}},
		{"not a unit's name", "/a b.service", Place{}},
		{"seen from a cgroup namespace", "/../../docker/ID", docker},

		// what is not a container
		{"a short id", "/docker/4c01db0b339c", Place{}},
		{"upper case", "/docker/" + strings.ToUpper(id), Place{}},
		{"32 digits", "/jobs/b380da002b0a68f11460f148e6aed573", Place{}},
		{"the runtime's directory itself", "/docker", Place{}},
		{"another default", "/a/default/web", Place{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Unit = subst.Replace(tt.want.Unit)
			if diff := cmp.Diff(tt.want, ParseCgroup(subst.Replace(tt.path))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.path, diff)
			}
		})
	}
}

func FuzzParseCgroup(f *testing.F) {
	f.Add("/system.slice/docker-" + id64(1) + ".scope/init.scope")
	f.Add("/kubepods/burstable/pod8f3a1c9b7e5d2046af18c3b9d7e6f504/" + id64(2))
	f.Add(`/machine.slice/systemd-nspawn@my\x2dbox.service/payload`)
	f.Add("/user.slice/user-1000.slice/user@1000.service/libpod-" + id64(3) + ".scope")
	f.Add("a.slice:cri-containerd:" + id64(4))
	f.Fuzz(func(t *testing.T, path string) {
		p := ParseCgroup(path)
		if (p.ID == "") != (p.Runtime == "") {
			t.Errorf("%q: runtime %q, id %q", path, p.Runtime, p.ID)
		}
		if p.UserID != "" && (!isNumber(p.UserID) || p.ID == "") {
			t.Errorf("%q: user %q", path, p.UserID)
		}
		if p.PodUID != "" && !isUID(p.PodUID) {
			t.Errorf("%q: pod %q", path, p.PodUID)
		}
		if p.Unit != "" && !isUnit(p.Unit) {
			t.Errorf("%q: unit %q", path, p.Unit)
		}
		// What a container makes within changes nothing about it, but for the
		// child of nspawn that is not in it.
		if p.ID != "" && !strings.HasSuffix(path, "/supervisor") && ParseCgroup(path+"/init.scope") != p {
			t.Errorf("%q: a cgroup within is %+v, not %+v", path, ParseCgroup(path+"/init.scope"), p)
		}
	})
}
