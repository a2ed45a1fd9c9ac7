package kube

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"

	"warren/cluster"
)

// BenchmarkEvent is one change of a pod from the bytes of its watch into a
// State of 20,000: what an agent pays for each of them.
func BenchmarkEvent(b *testing.B) {
	scheme, err := newScheme()
	if err != nil {
		b.Fatal(err)
	}
	codecs := serializer.NewCodecFactory(scheme)
	info, _ := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	st := cluster.NewState(cluster.Config{})
	var pods *resource
	for _, r := range resources(st, Options{Node: "node-1"}) {
		if r.name == "pods" {
			pods = r
		}
	}
	var events [][]byte
	for i := range 20_000 {
		p := ownedBy(apiPod("shop", fmt.Sprint("web-5d4f-", i), "node-2", fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)), "apps/v1", "ReplicaSet", "web-5d4f")
		key, value := pods.convert(p.DeepCopy())
		pods.set(key, value, time.Now())
		if i >= 1000 {
			continue
		}
		p.Status.Message = fmt.Sprint("something else ", i)
		p.Labels["version"] = fmt.Sprint(i % 10)
		var raw bytes.Buffer
		if err := codecs.EncoderForVersion(info.Serializer, coreVersion).Encode(p, &raw); err != nil {
			b.Fatal(err)
		}
		events = append(events, raw.Bytes())
	}
	count := &counter{}
	decoder := codecs.UniversalDeserializer()
	b.ReportAllocs()
	b.SetBytes(int64(len(events[0])))
	i := 0
	for b.Loop() {
		object, _, err := decoder.Decode(events[i%len(events)], nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		e, keep := pods.event(watch.Event{Type: watch.Modified, Object: object}, count)
		if !keep {
			b.Fatal("not kept")
		}
		it := e.Object.(*item)
		pods.set(it.key, it.value, time.Now())
		i++
	}
}
