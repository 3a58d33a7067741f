"""Parts on a belt, seen by cameras on a cluster of Raspberry Pis: docs/stories/camera.md."""
