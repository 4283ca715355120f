//! As whom a container's processes run, and what they may do.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FileType, Gid, Uid};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

/// As whom the program runs. Without anything set it is root with all that vipyard itself may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The image's user: a name or number, with or without a group (`USER[:GROUP]`), as its own /etc/passwd knows it.
    pub user: Option<String>,
    /// In place of the image's user.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Groups beside those that /etc/group gives the user.
    pub groups: Vec<u32>,
    /// Group lists can be set here; in a user namespace of an ordinary user they can't.
    pub set_groups: bool,
    /// The capabilities that root keeps, as bits; `None` for all.
    pub capabilities: Option<u64>,
    pub no_new_privileges: bool,
}

/// A user as the container's own files know it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Account {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    home: Option<String>,
}

impl Identity {
    /// Takes on the identity, for good. Returns the user's home.
    ///
    /// # Errors
    /// What can't be done, in words.
    pub(super) fn take_on(&self) -> Result<Option<String>, String> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let account = self.resolve(&read("/etc/passwd"), &read("/etc/group"))?;
        let failed =
            |what: &'static str| move |e: rustix::io::Errno| format!("{what}: {}", super::plain(&io::Error::from(e)));
        if account.uid != 0 {
            own_streams(account.uid);
        }
        if let Some(kept) = self.capabilities {
            let present = CapabilitySet::from_bits_truncate(kept);
            for capability in CapabilitySet::all().iter().filter(|one| !present.contains(*one)) {
                // A kernel that does not know one has nothing to take away.
                match rustix::thread::remove_capability_from_bounding_set(capability) {
                    Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                    Err(e) => return Err(failed("drop capabilities")(e)),
                }
            }
        }
        if self.set_groups {
            let groups: Vec<Gid> = account.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
            rustix::thread::set_thread_groups(&groups).map_err(failed("setgroups"))?;
        }
        let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("setgid"))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("setuid"))?;
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(failed("no new privileges"))?;
        }
        Ok(account.home)
    }

    fn resolve(&self, passwd: &str, group: &str) -> Result<Account, String> {
        let text = self.user.as_deref().unwrap_or_default();
        let (user, group_name) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let wanted = self.uid.map(|uid| uid.to_string()).unwrap_or_else(|| user.to_owned());
        let wanted = if wanted.is_empty() { "0".to_owned() } else { wanted };
        let lines = |text: &'_ str| text.lines().map(|l| l.split(':').map(str::to_owned).collect()).collect::<Vec<_>>();
        let (users, groups): (Vec<Vec<String>>, Vec<Vec<String>>) = (lines(passwd), lines(group));
        let field = |line: &[String], at: usize| line.get(at).cloned().unwrap_or_default();
        let known = users.iter().find(|line| field(line, 0) == wanted || field(line, 2) == wanted);
        let uid = match (wanted.parse::<u32>(), known) {
            (Ok(uid), _) => uid,
            (Err(_), Some(line)) => field(line, 2).parse().map_err(|_| format!("bad entry of user {wanted}"))?,
            (Err(_), None) => return Err(format!("unable to find user {wanted}: no matching entries in passwd file")),
        };
        let own_gid = known.and_then(|line| field(line, 3).parse().ok()).unwrap_or(0);
        let gid = match (self.gid, group_name.filter(|_| self.uid.is_none())) {
            (Some(gid), _) => gid,
            (None, Some(name)) => match name.parse() {
                Ok(gid) => gid,
                Err(_) => groups
                    .iter()
                    .find(|line| field(line, 0) == name)
                    .and_then(|line| field(line, 2).parse().ok())
                    .ok_or_else(|| format!("unable to find group {name}: no matching entries in group file"))?,
            },
            (None, None) => own_gid,
        };
        let login = known.map(|line| field(line, 0)).unwrap_or_default();
        let member = |line: &Vec<String>| !login.is_empty() && field(line, 3).split(',').any(|name| name == login);
        let mut all: Vec<u32> = self.groups.clone();
        all.extend(groups.iter().filter(|line| member(line)).filter_map(|line| field(line, 2).parse::<u32>().ok()));
        all.push(gid);
        all.sort_unstable();
        all.dedup();
        Ok(Account { uid, gid, groups: all, home: known.map(|line| field(line, 5)).filter(|home| !home.is_empty()) })
    }
}

/// Gives the pipes of standard output and error, or the terminal, to the user, who may want to open them again as
/// /dev/stdout or /dev/pts/0.
fn own_streams(uid: u32) {
    let (stdout, stderr) = (io::stdout(), io::stderr());
    for fd in [stdout.as_fd(), stderr.as_fd()] {
        let is_pipe = rustix::fs::fstat(fd).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Fifo);
        if is_pipe || rustix::termios::isatty(fd) {
            let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\nwww-data:x:33:\nadm:x:4:www-data\n";

    fn account(edit: impl FnOnce(&mut Identity)) -> Result<Account, String> {
        let mut identity = Identity::default();
        edit(&mut identity);
        identity.resolve(PASSWD, GROUP)
    }

    #[test]
    fn image_user_is_looked_up_in_the_images_own_files() {
        let found = account(|i| i.user = Some("www-data".into())).unwrap();
        let wanted = Account { uid: 33, gid: 33, groups: vec![4, 33], home: Some("/var/www".into()) };
        assert_eq!(found, wanted);
        assert_eq!(account(|i| i.user = Some("33:adm".into())).unwrap().gid, 4);
        assert_eq!(account(|i| i.user = Some("12:13".into())).unwrap().groups, [13]);
        assert!(account(|i| i.user = Some("nobody".into())).unwrap_err().contains("unable to find user nobody"));
        assert!(account(|i| i.user = Some("0:none".into())).unwrap_err().contains("unable to find group none"));
    }

    #[test]
    fn pods_user_and_groups_come_before_the_images() {
        let found = account(|i| {
            (i.user, i.uid, i.groups) = (Some("www-data".into()), Some(1000), vec![2000]);
        });
        assert_eq!(found.unwrap(), Account { uid: 1000, gid: 0, groups: vec![0, 2000], home: None });
        assert_eq!(account(|i| (i.uid, i.gid) = (Some(33), Some(5))).unwrap().gid, 5);
        assert_eq!(account(|_| ()).unwrap().home.as_deref(), Some("/root"));
    }
}
