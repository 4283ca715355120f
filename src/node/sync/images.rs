//! Waiting for an image: `ErrImagePull`, then `ImagePullBackOff` for longer and longer, until the map has it.

use tokio::time::Instant;

use super::Worker;
use crate::node::status::Phase;

impl Worker {
    /// The image is not there. Two states take turns, as with a kubelet: just looked for, and waiting to look again.
    pub(super) fn no_image(&mut self, index: usize, reference: &str) {
        let (now, timings) = (Instant::now(), &self.node.shared.timings);
        let message = format!("failed to pull image {reference:?}: {}", self.node.shared.images.advice());
        let slot = &mut self.slots[index];
        if slot.container.image_pull_policy.as_deref() == Some("Never") {
            let message = format!("Container image {reference:?} is not present with pull policy of Never");
            let first = !matches!(&slot.view.phase, Phase::Waiting { reason, .. } if reason == "ErrImageNeverPull");
            slot.wait_with("ErrImageNeverPull", message.clone());
            // A new map, or a new image in the object, is news.
            slot.due = None;
            if first {
                self.event("Warning", "ErrImageNeverPull", &message);
                self.event("Warning", "Failed", "Error: ErrImageNeverPull");
            }
        } else if let Some(again) = slot.image_due.filter(|again| *again > now) {
            let back_off = format!("Back-off pulling image {reference:?}");
            slot.due = Some(again);
            slot.wait_with("ImagePullBackOff", format!("{back_off}: ErrImagePull: {message}"));
            self.event("Normal", "BackOff", &back_off);
            self.event("Warning", "Failed", "Error: ImagePullBackOff");
        } else {
            let delay = slot.image_backoff.after(std::time::Duration::ZERO);
            slot.image_due = Some(now + delay);
            slot.due = Some(now + delay.min(timings.image_look));
            slot.wait_with("ErrImagePull", message.clone());
            self.event("Normal", "Pulling", &format!("Pulling image {reference:?}"));
            self.event("Warning", "Failed", &format!("Failed to pull image {reference:?}: {message}"));
            self.event("Warning", "Failed", "Error: ErrImagePull");
        }
        self.note_waiting(index, "trying and failing to pull image");
    }

    /// The images that there are have changed.
    pub(super) fn look_for_images(&mut self) {
        let images = self.node.shared.images.clone();
        for slot in &mut self.slots {
            let waits = matches!(&slot.view.phase, Phase::Waiting { reason, .. } if is_about_images(reason));
            if waits && images.find(&slot.view.image).is_some() {
                slot.look_again();
            }
        }
    }
}

/// Whether a container with this waiting reason waits for its image.
pub(super) fn is_about_images(reason: &str) -> bool {
    matches!(reason, "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull")
}
